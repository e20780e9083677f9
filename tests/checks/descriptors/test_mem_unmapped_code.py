"""MEM-UNMAPPED-CODE on files made by hand."""

from __future__ import annotations

import pytest

from checks.handmade_handles import INODE, MAPPING, add_handles
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.rule import Severity
from vmaforensics.views.descriptors.content import Content
from vmaforensics.views.descriptors.descriptors import Descriptors
from vmaforensics.views.descriptors.keepers import Keeper, KeptFiles
from vmaforensics.views.descriptors.sysv import Segments


@pytest.mark.parametrize("content", list(Content))
def test_only_programs_are_code(content: Content) -> None:
    views = views_of(Process())
    add_handles(views, content=content)
    found = [finding.severity for finding in findings(views, "MEM-UNMAPPED-CODE")]
    assert found == {Content.ELF: [Severity.MEDIUM], Content.SCRIPT: [Severity.LOW], Content.CODE: [Severity.LOW]}.get(
        content, []
    )


def test_without_a_keeper_it_belongs_to_nobody() -> None:
    views = views_of(Process())
    add_handles(views)
    (found,) = findings(views, "MEM-UNMAPPED-CODE")
    assert found.title == "ELF in the memory file memfd:x that no VMA maps, kept by no descriptor that was found"
    assert (found.mm, found.evidence[0].address, found.evidence[0].found) == (0, INODE, "physical 0x7000")


def test_a_descriptor_that_keeps_it_is_named() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    handles = add_handles(views)
    row = Descriptors.of(1, pid=[101], fd=[5], slot=[0x9000], file=[0x8000], inode=[INODE])
    object.__setattr__(handles, "descriptors", row)
    (found,) = findings(views, "MEM-UNMAPPED-CODE")
    assert found.title.endswith("kept by descriptor 5 of process 101")
    assert (found.mm, found.evidence[1].address) == (mm_of(101), 0x9000)


def test_the_queue_of_a_socket_that_keeps_it_is_named() -> None:
    views = views_of(Process(pid=100))
    handles = add_handles(views)
    row = KeptFiles.of(1, keeper=[Keeper.QUEUE], slot=[0x9000], file=[0x8000], inode=[INODE], pid=[100], fd=[3])
    object.__setattr__(handles, "kept", row)
    (found,) = findings(views, "MEM-UNMAPPED-CODE")
    assert found.title.endswith("kept by the queue of a unix socket (by descriptor 3 of process 100)")
    assert found.mm == mm_of(100)


def test_a_segment_that_keeps_it_is_named() -> None:
    views = views_of(Process())
    add_handles(views, segments=Segments.of(1, id=[7], key=[-1], mapping=[MAPPING]))
    (found,) = findings(views, "MEM-UNMAPPED-CODE")
    assert found.title.endswith("kept by System V segment 7")
    assert "key 0xffffffff" in found.evidence[1].what


@pytest.mark.parametrize("where", ["i_mmap", "a VMA", "a path"])
def test_a_file_that_a_vma_or_a_path_leads_to_is_none(where: str) -> None:
    views = views_of(Process(vmas=("400000-401000 rw-s /memfd:x",)))
    files = add_handles(views).memory_files
    assert views.files is not None
    if where == "i_mmap":
        files.mapped[0] = True
    elif where == "a VMA":
        files.mapping[0] = views.files.rows.mapping[0]
    else:
        files.internal[0], files.nlink[0] = False, 1
    assert findings(views, "MEM-UNMAPPED-CODE") == []
