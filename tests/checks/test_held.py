"""VMAs that nobody changed between two readings, by the numbers of changes; on views and clocks made by hand.

Memory is read in the order of addresses: tasks, mm_structs, VMAs, nodes of maple trees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import BASE

from checks.handmade_clocks import START, clocks
from checks.handmade_views import MMS, NODES, VMAS, Process, findings, mm_of, views_of, vma_row
from vmaforensics.checks.context import Context
from vmaforensics.checks.held import HELD, UNTOUCHED, Held, held
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.structures.lock import Lock

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.views.views import Views

LINES = ("a000-c000 rw-p", "d000-f000 rw-p", "7f0000-7f4000 rw-p [stack]")
BEFORE_MM, BEHIND_MM, BEHIND_VMAS = (MMS - BASE - 8, MMS - BASE + (1 << 27), VMAS - BASE + (1 << 27))


def running(changes: int, *seqs: int) -> Views:
    """A process that ran while its memory was read, so many changes of its map, and the number of each VMA's last."""
    views = views_of(Process(pid=100, vmas=LINES))
    views.clocks = clocks(ran={100: START + 5.0})
    views.mms.lock_seq[:] = changes
    for start, seq in zip((0xA000, 0xD000, 0x7F0000), seqs, strict=True):
        views.vmas.lock_seq[vma_row(views, start)] = seq
    return views


def asked(views: Views) -> Held:
    known = held(Context(views))
    assert known is not None
    return known


def the_first(views: Views) -> U64:
    return views.vmas.vma[[vma_row(views, 0xA000)]]


@pytest.mark.parametrize(
    ("seq", "word", "same"),
    [
        (5, BEHIND_MM, True),  # the mm_struct, read before the word, counts a later change
        (29, BEHIND_MM, True),
        (31, BEHIND_MM, False),  # made after the mm_struct was read, perhaps after the word
        (5, BEFORE_MM, False),  # nothing read before the word knows a later change
        (5, BEHIND_VMAS, False),  # the VMA may have been changed after it was read
    ],
)
def test_a_vma_is_the_same_from_a_later_number_on(seq: int, word: int, *, same: bool) -> None:
    views = running(30, seq, 7, 9)
    assert asked(views).through(the_first(views), np.array([word], np.uint64)).tolist() == [same]


def test_the_mm_struct_of_a_process_that_was_just_made_may_have_been_anothers() -> None:
    views = running(30, 5, 7, 9)
    assert views.clocks is not None
    views.clocks.tasks.started[:] = (START + 1) * 10**9
    assert asked(views).through(the_first(views), np.array([BEHIND_MM], np.uint64)).tolist() == [False]


def test_a_number_that_the_mm_struct_does_not_know_yet_cannot_lie_before_it() -> None:
    views = running(4, 5, 7, 9)
    views.vmas.vma[:] -= np.uint64(VMAS - MMS + (1 << 20))  # below the mm_struct
    assert not asked(views).through(views.vmas.vma, np.full(3, BEFORE_MM, np.uint64)).any()


@pytest.mark.parametrize(("changes", "later", "steady"), [(300, 310, True), (30, 40, True), (30, 300, False)])
def test_a_vma_that_many_changes_passed_over_is_not_mapped_and_unmapped_all_the_time(
    changes: int, later: int, *, steady: bool
) -> None:
    views = running(changes, 5, 7, later)
    word, behind = np.array([BEHIND_VMAS], np.uint64), np.array([NODES - BASE], np.uint64)
    known = asked(views)
    assert known.outlived(the_first(views), word, behind).tolist() == [steady]
    assert known.outlived(the_first(views), word, np.zeros(1, np.uint64)).tolist() == [False]


@pytest.mark.parametrize(("seq", "old"), [(5, True), (23, True), (24, False), (29, False)])
def test_a_vma_is_old_if_one_in_four_of_all_changes_passed_it_over(seq: int, *, old: bool) -> None:
    views = running(30, seq, 7, 9)
    assert asked(views).old(the_first(views), np.array([BEHIND_MM], np.uint64)).tolist() == [old]


def test_kernels_without_such_numbers_prove_nothing() -> None:
    assert held(Context(running(0, 0, 0, 0))) is None


@pytest.mark.parametrize(("place", "proven"), [(NODES, ""), (MMS + (1 << 27), HELD)])
def test_bounds_that_contradict_the_index_are_found_in_a_process_that_runs_on(place: int, proven: str) -> None:
    """Where the leaf was read before the VMA, and behind what knows of a later change."""
    views = running(30, 5, 7, 9)
    assert views.maple is not None
    views.vmas.end[vma_row(views, 0xA000)] -= np.uint64(0x1000)
    views.maple_nodes.address[:] = place
    offset = int(views.maple_nodes.slot_offset[0])
    views.maple.slot[:] = [place + offset + 8 * slot for slot in (1, 3, 5)]  # between empty ones
    (found,) = findings(views, "VMA-RANGE")
    assert (found.mm, found.proven) == (mm_of(100), proven)
    kept = [finding for finding in run_checks(Context(views)) if finding.rule.id == "VMA-RANGE"]
    assert [finding.confidence.value for finding in kept] == ["medium"] * bool(proven)
    assert all(HELD in [item.what for item in finding.evidence] for finding in kept)


@pytest.mark.parametrize(("seq", "severity"), [(5, "high"), (31, "low")])
def test_a_change_that_is_under_way_excuses_only_the_vmas_that_it_has_locked(seq: int, severity: str) -> None:
    views = running(31, seq, 31, 9)
    views.clocks = clocks(live=False)
    views.mms.lock[:] = Lock.WRITE
    views.vmas.end[vma_row(views, 0xA000)] -= np.uint64(0x1000)
    (found,) = [finding for finding in run_checks(Context(views)) if finding.rule.id == "VMA-RANGE"]
    assert found.severity.value == severity
    assert found.proven == (UNTOUCHED if severity == "high" else "")
