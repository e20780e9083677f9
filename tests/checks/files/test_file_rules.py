"""FILE-IDENTITY, DENTRY-NAME and VMA-KIND on files made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_views import FILE_OPS, Process, findings, views_of, vma_row
from vmaforensics.checks.finding import Severity
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.identities import Dentries, Identities, IdentitiesView
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

DENTRY, MOUNT, SUPER = 0xFFFF_8880_7000_0000, 0xFFFF_8880_7100_0000, 0xFFFF_8880_7200_0000
HASH_AT, NODE_AT = 32, 8
PATHS = ("/bin/cat", "/lib/libc.so.6", "/lib/libm.so.6", "/lib/libz.so.1", "/tmp/x")


def shown() -> Views:
    """Two processes with five files; each file has a dentry of its own, on a chain."""
    first = [f"{0x400000 + 0x10000 * place:x}-{0x402000 + 0x10000 * place:x} r-xp {p}" for place, p in enumerate(PATHS)]
    views = views_of(Process(pid=100, vmas=first), Process(pid=101, vmas=first[1:]))
    assert views.files is not None
    rows = views.files.rows
    count = len(rows)
    dentry = DENTRY + 192 * np.arange(count, dtype=np.uint64)
    files = Identities.of(
        file=rows.file,
        ok=np.ones(count, np.bool_),
        inode=rows.inode,
        mapping=rows.mapping,
        dentry=dentry,
        mnt=np.full(count, MOUNT, np.uint64),
        named=rows.inode,
        dentry_sb=np.full(count, SUPER, np.uint64),
        mount_sb=np.full(count, SUPER, np.uint64),
        pages=rows.mapping,
        foreign=np.zeros(count, np.bool_),
        stacked=np.zeros(count, np.bool_),
    )
    names = Dentries.of(
        dentry=dentry,
        parent=np.full(count, DENTRY - 4096, np.uint64),
        hash=np.arange(1, count + 1),
        due=np.arange(1, count + 1),
        hashed=np.ones(count, np.bool_),
        pprev=dentry - np.uint64(64),
        back=dentry + np.uint64(NODE_AT),
        chain_read=np.ones(count, np.bool_),
        users=np.ones(count, np.int32),
        file=np.arange(count),
    )
    views.identities = IdentitiesView(files=files, dentries=names, dentry_hash=NODE_AT, name_hash=HASH_AT)
    return views


RULES = ("FILE-IDENTITY", "DENTRY-NAME", "VMA-KIND")


def test_files_that_are_what_they_say_are_nothing_to_report() -> None:
    assert [finding for rule in RULES for finding in findings(shown(), rule)] == []


@pytest.mark.parametrize("record", ["named", "mount_sb", "foreign", "exchanged"])
def test_a_file_that_is_shown_as_another_is_told_of_the_first_who_maps_it(record: str) -> None:
    views = shown()
    assert views.identities is not None
    getattr(views.identities.files, record)[1] = 1
    (finding,) = findings(views, "FILE-IDENTITY")
    assert (finding.pid, finding.start, finding.severity) == (100, 0x410000, Severity.HIGH)
    assert "/lib/libc.so.6" in finding.title


def test_a_file_beneath_an_overlay_may_have_the_name_of_the_one_above() -> None:
    views = shown()
    assert views.identities is not None
    views.identities.files.named[1] = 1
    views.identities.files.stacked[1] = True
    assert findings(views, "FILE-IDENTITY") == []


def test_a_name_that_does_not_fit_its_hash_is_found() -> None:
    views = shown()
    assert views.identities is not None
    views.identities.dentries.due[2] = 99
    (finding,) = findings(views, "DENTRY-NAME")
    assert (finding.pid, finding.start) == (100, 0x420000)
    assert finding.evidence[0].address == DENTRY + 2 * 192 + HASH_AT


def test_a_kernel_that_hashes_in_another_way_has_no_wrong_names() -> None:
    views = shown()
    assert views.identities is not None
    views.identities.dentries.due[:] += np.uint32(7)
    assert findings(views, "DENTRY-NAME") == []


@pytest.mark.parametrize(("record", "value"), [("sequence", 3), ("users", -128)])
def test_a_name_that_is_being_changed_or_was_given_back_is_not_judged(record: str, value: int) -> None:
    views = shown()
    assert views.identities is not None
    names = views.identities.dentries
    names.due[2], names.back[2] = 99, 0
    getattr(names, record)[2] = value
    assert findings(views, "DENTRY-NAME") == []


def test_a_deleted_name_that_is_marked_as_being_there_is_found() -> None:
    views = shown()
    assert views.identities is not None
    views.identities.dentries.back[4] = DENTRY + NODE_AT
    (finding,) = findings(views, "DENTRY-NAME")
    assert "/tmp/x" in finding.title
    views.identities.dentries.chain_read[4] = False  # not in the image
    assert findings(views, "DENTRY-NAME") == []


def test_a_written_name_is_certain_in_a_moving_machine_only_if_it_lies_in_one_page() -> None:
    views = shown()
    assert views.identities is not None
    names = views.identities.dentries
    names.due[2] = 99
    names.one_page[2] = True
    assert findings(views, "DENTRY-NAME")[0].at_once
    names.back[3] = 0  # of the same process: its chain lies elsewhere
    assert not findings(views, "DENTRY-NAME")[0].at_once


def test_memory_without_a_file_works_by_no_functions_of_one() -> None:
    views = views_of(Process(vmas=("400000-402000 r-xp /bin/cat", "500000-502000 rw-p", "600000-602000 r-xp")))
    views.vmas.ops[vma_row(views, 0x600000)] = FILE_OPS
    views.vmas.kind[vma_row(views, 0x600000)] = Kind.SPECIAL
    assert findings(views, "VMA-KIND") == []
    views.vmas.ops[vma_row(views, 0x500000)] = FILE_OPS
    (finding,) = findings(views, "VMA-KIND")
    assert (finding.start, finding.end) == (0x500000, 0x502000)


def test_a_file_without_functions_passes_for_anonymous_memory() -> None:
    views = views_of(Process())
    views.vmas.ops[vma_row(views, 0x400000)] = 0
    (finding,) = findings(views, "VMA-KIND")
    assert finding.start == 0x400000
    assert views.files is not None
    views.files.rows.regular[:] = False  # /dev/zero
    assert findings(views, "VMA-KIND") == []


def test_huge_pages_have_a_file_of_huge_pages() -> None:
    views = views_of(Process(vmas=("400000-402000 r-xp /bin/cat", "500000-502000 rw-p", "600000-800000 rw-p /h")))
    assert views.files is not None
    huge = vma_row(views, 0x600000)
    views.files.rows.hugetlb[views.vmas.file_row[huge]] = True
    views.vmas.flags[huge] |= np.uint64(flags.VM_HUGETLB)
    assert findings(views, "VMA-KIND") == []
    views.vmas.flags[vma_row(views, 0x500000)] |= np.uint64(flags.VM_HUGETLB)
    views.vmas.flags[huge] &= ~np.uint64(flags.VM_HUGETLB)
    (finding,) = findings(views, "VMA-KIND")
    assert len(finding.evidence) == 2


def test_without_identities_nothing_is_said() -> None:
    views = replace(shown(), identities=None)
    assert [finding for rule in RULES[:2] for finding in findings(views, rule)] == []
