"""Anonymous frames that page tables map twice, in images taken while the process ran; on page tables made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_clocks import SIZE, START, clocks
from checks.handmade_pages import Entry, add_page_tables, entry_row
from checks.handmade_views import TASKS, Process, findings, views_of
from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE
from vmaforensics.checks.context import Context
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.vmas.flags import VM_MERGEABLE

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

CODE, DATA, MORE, STACK = 0x400000, 0x500000, 0x510000, 0x7F0000
LINES = ("400000-402000 r-xp /bin/cat", "500000-502000 rw-p", "510000-512000 rw-p", "7f0000-7f4000 rw-p [stack]")


def running(*extra: Entry) -> Views:
    """A process that ran while its memory was read."""
    views = views_of(Process(pid=100, vmas=LINES))
    add_page_tables(views, *extra)
    views.clocks = clocks(ran={100: START + 5.0})
    return views


def lead(views: Views, va: int, other: int) -> None:
    """Make the entry for ``va`` lead to the frame that is mapped at ``other``."""
    assert views.page_tables is not None
    ptes, at, to = views.page_tables.ptes, entry_row(views, va), entry_row(views, other)
    ptes.pfn[at], ptes.page_row[at] = ptes.pfn[to], ptes.page_row[to]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_entry_that_leads_to_a_frame_of_another_entry_of_its_table_is_wrong_at_once(*, at_once: bool) -> None:
    views = running()
    lead(views, CODE, DATA)
    assert views.page_tables is not None
    if not at_once:
        views.page_tables.ptes.where[entry_row(views, DATA)] += np.uint64(0x1000)  # in a table of its own
    found = [finding for finding in findings(views, "PTE-REMAP") if finding.start == CODE]
    assert [finding.at_once for finding in found] == [at_once]
    kept = [finding for finding in run_checks(Context(views)) if finding.rule.id == "PTE-REMAP"]
    assert bool(kept) is at_once
    assert all("one page" in finding.evidence[-1].what for finding in kept)


@pytest.mark.parametrize(
    ("mergeable", "allow", "wrong"),
    [
        (True, ALLOW_USER, False),  # write_protect_page, mm/ksm.c
        (True, ALLOW_USER | ALLOW_WRITE, True),
        (False, ALLOW_USER, True),
    ],
)
def test_read_only_entries_may_lead_to_one_frame_where_ksm_merges_pages(
    *, mergeable: bool, allow: int, wrong: bool
) -> None:
    views = running()
    lead(views, MORE, DATA)
    assert views.page_tables is not None
    views.page_tables.ptes.allow[[entry_row(views, DATA), entry_row(views, MORE)]] = allow
    views.vmas.flags[views.vmas.start == DATA] |= np.uint64(VM_MERGEABLE if mergeable else 0)
    found = [finding for finding in findings(views, "PTE-REMAP") if finding.start == MORE]
    assert any(finding.at_once for finding in found) is wrong


def test_an_entry_in_no_vma_is_not_where_a_frame_belongs() -> None:
    views = running()
    lead(views, CODE, DATA)
    views.vmas.start[views.vmas.start == DATA] += np.uint64(0x1000)
    assert not any(finding.at_once for finding in findings(views, "PTE-REMAP"))


def test_two_entries_that_are_both_wrong_prove_nothing() -> None:
    views = running()
    lead(views, CODE, DATA)
    assert views.page_tables is not None
    views.page_tables.pages.index[views.page_tables.ptes.page_row[entry_row(views, DATA)]] += 1
    assert not any(finding.at_once for finding in findings(views, "PTE-REMAP"))


@pytest.mark.parametrize(
    ("va", "allow", "proven"),
    [
        (0xA00000, ALLOW_USER | ALLOW_EXECUTE, True),
        (0xA00000, ALLOW_USER, False),  # data that is mapped and unmapped shares frames in any order
        (0x10000, ALLOW_USER | ALLOW_EXECUTE, False),  # its table was read before that of the rightful entry
    ],
)
def test_code_outside_of_every_vma_whose_frame_belonged_elsewhere_before_and_after(
    va: int, allow: int, *, proven: bool
) -> None:
    views = running(Entry(pid=100, va=va, pfn=0x99, allow=allow))
    lead(views, va, STACK)
    (found,) = findings(views, "PTE-ORPHAN")
    assert (bool(found.proven), found.start) == (proven, va)
    kept = [finding for finding in run_checks(Context(views)) if finding.rule.id == "PTE-ORPHAN"]
    assert bool(kept) is proven


def test_the_struct_page_may_have_been_read_first_and_the_rightful_entry_last() -> None:
    va = 0x10000
    views = running(Entry(pid=100, va=va, pfn=0x99, allow=ALLOW_USER | ALLOW_EXECUTE))
    lead(views, va, STACK)
    assert views.clocks is not None and views.page_tables is not None
    places, ptes = views.clocks.places, views.page_tables.ptes
    ptes.pfn[:] = 0  # of the first struct page
    ptes.where[:] += np.uint64(SIZE // 2)
    places._pages, places._page = TASKS, 64
    (found,) = findings(views, "PTE-ORPHAN")
    assert found.proven
    places._pages = None  # it lies behind everything
    assert not any(finding.proven for finding in findings(views, "PTE-ORPHAN"))


@pytest.mark.parametrize(
    ("read", "written", "proven"),
    [
        (-0x1000, False, True),
        (0x1000, False, False),  # the frame may have been of the page cache when the wrong entry was read
        (-0x1000, True, False),  # memory that was written to shares frames in any order
    ],
)
def test_a_frame_of_another_table_that_belonged_elsewhere_before_and_after(
    read: int, *, written: bool, proven: bool
) -> None:
    views = running()
    lead(views, CODE, DATA)
    assert views.page_tables is not None
    where, row = views.page_tables.ptes.where, entry_row(views, DATA)
    where[row] = int(where[row]) + read
    if written:
        views.vmas.anon_vma[views.vmas.start == CODE] = 0xFFFF_8880_A000_0000
    (found,) = (finding for finding in findings(views, "PTE-REMAP") if finding.start == CODE)
    assert (bool(found.proven), found.at_once) == (proven, False)
    kept = [finding for finding in run_checks(Context(views)) if finding.rule.id == "PTE-REMAP"]
    assert bool(kept) is proven


@pytest.mark.parametrize("change", ["", "read behind", "written since", "not mapped here", "mergeable"])
def test_a_frame_that_a_fork_shares_belongs_where_other_address_spaces_map_it(change: str) -> None:
    """The wrong entry was read before the rightful one of its own address space, and behind that of a relative."""
    va = 0x10000
    views = views_of(Process(pid=100, vmas=LINES), Process(pid=101, vmas=("7f0000-7f4000 rw-p [stack]",)))
    add_page_tables(views, Entry(pid=100, va=va, pfn=0x99, allow=ALLOW_USER | ALLOW_EXECUTE))
    views.clocks = clocks(ran={100: START + 5.0})
    assert views.page_tables is not None
    ptes = views.page_tables.ptes
    views.page_tables.anon_roots.root[:] = views.page_tables.anon_roots.root[0]  # one family
    wrong, (own, theirs) = entry_row(views, va), np.flatnonzero(ptes.va == np.uint64(STACK)).tolist()
    for row in (wrong, theirs):
        ptes.pfn[row], ptes.page_row[row] = ptes.pfn[own], ptes.page_row[own]
    ptes.where[theirs] = int(ptes.where[wrong]) + (0x1000 if change == "read behind" else -0x1000)
    if change == "written since":  # a fault gave the relative a copy
        ptes.page_row[theirs] = ptes.page_row[entry_row(views, DATA)]
    elif change == "not mapped here":  # mremap takes the entries along
        ptes.page_row[own] = ptes.page_row[entry_row(views, DATA)]
    elif change == "mergeable":
        views.vmas.flags[views.vmas.start == DATA] |= np.uint64(VM_MERGEABLE)
    (found,) = (finding for finding in findings(views, "PTE-ORPHAN") if finding.start == va)
    assert bool(found.proven) is (change == "")
