"""VMA-SLAB-ORPHAN on VMAs made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_clocks import START, clocks
from checks.handmade_pages import Entry, add_page_tables
from checks.handmade_rmap import ANON_VMAS, LINKS, add_reverse_maps
from checks.handmade_views import MMS, NODES, VMAS, Process, add_problem, drop_entry, findings, mm_of, views_of
from vmaforensics.checks.held import HELD, OUTLIVED
from vmaforensics.checks.inherited import INHERITED
from vmaforensics.columns.texts import Texts
from vmaforensics.views.problems import Problem
from vmaforensics.views.reverse_maps.anon_vma_chains import AnonVmaChains, AnonVmas
from vmaforensics.views.slab.objects import State
from vmaforensics.views.slab.strays import StrayVmas
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

_ANCESTOR = ANON_VMAS + (1 << 20)


def _views(*, state: State = State.ALLOCATED, refcnt: int = -1, attached: bool = True) -> Views:
    """The text of a process is in the slab and in no index."""
    views = views_of(Process(pid=100))
    views.vmas.refcnt[0] = refcnt
    views.strays = StrayVmas(
        vmas=views.vmas.take(np.array([0])),
        state=np.array([state], np.uint8),
        attached=np.array([attached]),
        avc=np.zeros(1, np.uint64),
        names=Texts.of([b"/bin/cat"]),
        foreign=np.zeros(0, np.uint64),
    )
    drop_entry(views, 0x400000)
    return views


def test_without_stray_vmas_there_is_none() -> None:
    assert findings(views_of(Process()), "VMA-SLAB-ORPHAN") == []


def test_an_allocated_vma_in_no_index_is_found() -> None:
    (found,) = findings(_views(), "VMA-SLAB-ORPHAN")
    assert (found.mm, found.start, found.end) == (mm_of(100), 0x400000, 0x402000)
    assert "(/bin/cat) is alive" in found.title
    assert found.evidence[0].expected == "in the maple tree"


@pytest.mark.parametrize(
    ("state", "refcnt", "count"), [(State.UNKNOWN, 1, 1), (State.UNKNOWN, -1, 0), (State.FREE, 1, 0)]
)
def test_where_the_lists_are_incomplete_the_reference_count_decides(state: State, refcnt: int, count: int) -> None:
    assert len(findings(_views(state=state, refcnt=refcnt), "VMA-SLAB-ORPHAN")) == count


def test_a_vma_that_says_it_is_detached_waits_to_be_freed() -> None:
    assert findings(_views(attached=False), "VMA-SLAB-ORPHAN") == []


def test_nothing_is_missing_from_an_index_that_was_not_read_whole() -> None:
    views = _views()
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm=mm_of(100))
    assert findings(views, "VMA-SLAB-ORPHAN") == []


def test_vmas_behind_a_failed_fork_are_in_no_index() -> None:
    views = _views()
    add_problem(views, View.MAPLE, Problem.RESERVED, mm=mm_of(100))
    assert findings(views, "VMA-SLAB-ORPHAN") == []


@pytest.mark.parametrize("change", ["no users", "not read", "not of any process", "above user space"])
def test_old_contents_of_an_object_are_no_vma_of_a_process(change: str) -> None:
    views = _views()
    assert views.strays is not None
    if change == "no users":
        views.mms.users[0] = 0
    elif change == "not read":
        views.mms.ok[0] = False
    elif change == "not of any process":
        views.strays.vmas.mm[0] = 0x1234
    else:
        views.strays.vmas.end[0] = 1 << 62
    assert findings(views, "VMA-SLAB-ORPHAN") == []


@pytest.mark.parametrize(
    ("place", "last", "why"), [(MMS + (1 << 27), 5, HELD), (MMS + (1 << 27), 31, ""), (NODES, 5, "")]
)
def test_in_a_process_that_runs_on_the_slot_is_read_before_a_vma_that_nobody_wrote_to(
    place: int, last: int, why: str
) -> None:
    """The mm_struct counts 30 changes and is read first; then the leaf or the VMA; 5 and 31 is the VMA's last."""
    views = _views()
    views.clocks = clocks(ran={100: START + 5.0})
    views.mms.lock_seq[:] = 30
    assert views.strays is not None
    views.strays.vmas.lock_seq[:] = views.vmas.lock_seq[0] = last
    views.maple_nodes.address[:] = place
    views.maple_nodes.slots[0, 1] = 0  # behind the empty range below
    (found,) = findings(views, "VMA-SLAB-ORPHAN")
    assert (found.mm, found.start, found.proven) == (mm_of(100), 0x400000, why)
    assert ("is empty" in found.evidence[0].what) == bool(why)


def test_what_leads_back_to_a_vma_behind_its_empty_slot_proves_it_where_changes_passed_it_over() -> None:
    """The VMA is read, then the leaf, the anon_vma_chain and the struct page of its page."""
    for avc, why in ((NODES + (1 << 27), OUTLIVED), (VMAS, ""), (0, "")):
        views = _views()
        assert views.strays is not None
        strays = views.strays.vmas
        strays.anon_vma[:] = 0xFFFF_8880_9000_0000
        strays.lock_seq[:] = views.vmas.lock_seq[0] = 5
        add_page_tables(views, Entry(pid=100, va=0x400000, pfn=0x99))
        assert views.page_tables is not None
        pages = views.page_tables.pages
        pages.anon[:], pages.ok[:], pages.mapping[:] = True, True, strays.anon_vma[0]
        pages.index[:] = strays.anon_pgoff[0]
        views.clocks = clocks(ran={100: START + 5.0})
        views.mms.lock_seq[:] = 300
        views.maple_nodes.slots[0, 1] = 0
        views.strays.avc[:] = avc
        (found,) = findings(views, "VMA-SLAB-ORPHAN")
        assert found.proven == why


def _handed_down(link: int) -> Views:
    """An anonymous VMA that fork copied, and that was cut out of the tree; its link to an ancestor lies at ``link``.

    The kernel numbers no changes, and the process ran on.
    """
    views = views_of(Process(pid=100, vmas=("a000-c000 rw-p", "d000-f000 rw-p", "7f0000-7f4000 rw-p [stack]")))
    rmap = add_reverse_maps(views)
    rmap.anon_vmas.root[:1] = _ANCESTOR
    ancestor = AnonVmas.of(1, anon_vma=[_ANCESTOR], ok=[True], root=[_ANCESTOR], whole=[True])
    vma = views.vmas.vma[:1]
    inherited = AnonVmaChains.of(1, vma=vma, avc=[link], anon_vma=[_ANCESTOR], back=vma)
    views.rmap = replace(
        rmap,
        anon_vmas=AnonVmas.concatenate([rmap.anon_vmas, ancestor]),
        chains=AnonVmaChains.concatenate([rmap.chains, inherited]),
    )
    views.strays = StrayVmas(
        vmas=views.vmas.take(np.array([0])),
        state=np.array([State.UNKNOWN], np.uint8),
        attached=np.array([True]),
        avc=np.zeros(1, np.uint64),
        names=Texts.of([b""]),
        foreign=np.zeros(0, np.uint64),
    )
    drop_entry(views, 0xA000)
    views.maple_nodes.slots[0, 1] = 0
    views.clocks = clocks(ran={100: START + 5.0})
    return views


def test_what_fork_handed_down_was_there_all_the_time() -> None:
    (found,) = findings(_handed_down(LINKS + 8), "VMA-SLAB-ORPHAN")
    assert (found.mm, found.start, found.end, found.proven) == (mm_of(100), 0xA000, 0xC000, INHERITED)


@pytest.mark.parametrize(
    "change", ["read before", "at once", "no ancestor", "another family", "moved", "file", "young"]
)
def test_what_fork_may_not_have_handed_down_is_not_known_to_have_been_there(change: str) -> None:
    views = _handed_down({"read before": VMAS, "at once": NODES + (1 << 20)}.get(change, LINKS + 8))
    rmap, strays, known = views.rmap, views.strays, views.clocks
    assert rmap is not None
    assert strays is not None
    assert known is not None
    if change == "no ancestor":  # a VMA of its own is linked to its own alone
        rmap.chains.anon_vma[-1] = strays.vmas.anon_vma[0]
    elif change == "another family":
        rmap.anon_vmas.root[-1] = ANON_VMAS + (1 << 21)
    elif change == "moved":  # mremap takes the chain along
        strays.vmas.anon_pgoff[:] = 0x55
    elif change == "file":
        strays.vmas.file[:] = 0xFFFF_8880_0000_1000
    elif change == "young":
        known.tasks.started[:] = (START + 1) * 10**9
    assert [finding for finding in findings(views, "VMA-SLAB-ORPHAN") if finding.proven] == []
