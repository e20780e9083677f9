"""What the checks share: what was read whole, one finding for each address space, and which VMA holds an address."""

from __future__ import annotations

import numpy as np
import pytest

from checks.handmade_views import PAGE, STACK_GUARD_GAP, Process, add_problem, mm_of, task_of, views_of
from vmaforensics.checks.context import MOST, Context, hull
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.registry import rule
from vmaforensics.checks.vmas.coverage import Coverage
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

RULE = rule("VMA-RANGE")
MMS = np.array([mm_of(100), mm_of(101), 0x123], np.uint64)


def _u64(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


@pytest.mark.parametrize(
    ("problem", "lost"), [(Problem.UNREADABLE, True), (Problem.CUT_SHORT, True), (Problem.CYCLE, False)]
)
def test_an_index_with_a_lost_node_was_not_read_whole(problem: Problem, lost: bool) -> None:
    views = views_of(Process(pid=100), Process(pid=101), index="list")
    add_problem(views, View.LIST, problem, mm_of(101))
    context = Context(views)
    assert context.whole(View.LIST, MMS).tolist() == [True, not lost, True]
    assert context.whole(View.RBTREE, MMS).tolist() == [True, True, True]


def test_an_index_with_an_unread_vma_was_read_whole_and_not_decoded() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    views.vmas.ok[3] = False
    context = Context(views)
    assert context.whole(View.MAPLE, MMS).tolist() == [True, True, True]
    assert context.decoded(View.MAPLE, MMS).tolist() == [True, False, True]


def test_nothing_of_an_unread_mm_was_read_whole() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    views.mms.ok[0] = False
    assert Context(views).whole(View.MAPLE, MMS).tolist() == [False, True, True]


@pytest.mark.parametrize(("index", "view"), [("maple", View.MAPLE), ("list", View.LIST)])
def test_the_index_the_kernel_goes_by(index: str, view: View) -> None:
    assert Context(views_of(Process(), index=index)).index is view


def test_what_is_shared_is_made_once_until_it_is_let_go() -> None:
    context, made = Context(views_of(Process())), []

    def make(given: Context) -> int:
        made.append(given)
        return len(made)

    assert [context.shared(make), context.shared(make)] == [1, 1]
    context.release()
    assert context.shared(make) == 2


def test_one_finding_for_each_address_space_lists_the_first_rows() -> None:
    context = Context(views_of(Process(pid=100), Process(pid=101)))
    mm = np.array([mm_of(101), *[mm_of(100)] * (MOST + 2)], np.uint64)
    first, second = context.per_mm(
        RULE,
        mm,
        lambda row: Evidence(what=f"row {row}", view="", address=row),
        lambda row: f"row {row}",
        lambda row: (row * PAGE, (row + 1) * PAGE),
    )
    assert (first.pid, first.title) == (100, f"row 1, and {MOST + 1} more")
    assert [item.what for item in first.evidence] == [
        *(f"row {row}" for row in range(1, MOST + 1)),
        "and 2 more like these",
    ]
    assert (first.start, first.end) == (PAGE, (MOST + 3) * PAGE)
    assert (second.pid, second.title, len(second.evidence)) == (101, "row 0", 1)


def test_a_finding_about_an_unknown_mm() -> None:
    (found,) = Context(views_of(Process())).per_mm(
        RULE, _u64(0x123), lambda row: Evidence(what="", view="", address=0), lambda row: "title"
    )
    assert (found.pid, found.comm, found.lock, found.start) == (0, b"", "unknown", None)


def test_a_vma_in_words() -> None:
    views = views_of(Process(vmas=("1000-2000 rwxp", "2000-3000 r-xp /bin/\\udcff", "3000-4000 ---p")))
    views.vmas.ok[2] = False
    context = Context(views)
    texts = [context.vma_in_words(vma) for vma in views.vmas.vma.tolist()]
    assert texts[0] == "writable and executable VMA 0x1000-0x2000"
    assert texts[1].startswith("executable VMA 0x2000-0x3000 (/bin/")
    assert texts[2].endswith("not readable)")
    assert context.vma_in_words(task_of(100)).endswith("not readable)")


def test_the_vma_whose_structure_holds_a_word() -> None:
    views = views_of(Process())
    context, address = Context(views), int(views.vmas.vma[1])
    assert context.vma_holding(address) == context.vma_holding(address + 191) == (0x7F0000, 0x7F4000)
    assert context.vma_holding(address + 192) is None
    assert context.vma_holding(int(views.vmas.vma[0]) - 1) is None


# Coverage ----------------------------------------------------------------------------------------------------


def test_addresses_in_and_between_vmas() -> None:
    coverage = Coverage(Context(views_of(Process(pid=100), Process(pid=101, vmas=("a000-b000 rw-p",)))))
    address = _u64(0x3FFFFF, 0x400000, 0x401FFF, 0x402000, 0xFFFF_8880_0040_0000)
    assert coverage.holds(np.full(5, mm_of(100), np.uint64), address).tolist() == [False, True, True, False, False]
    assert not coverage.holds(np.full(5, mm_of(101), np.uint64), address).any()
    gap = coverage.gap(np.full(5, mm_of(100), np.uint64), address)
    assert gap[0] != gap[3] == coverage.gap(_u64(mm_of(100)), _u64(0x500000))[0]


def test_an_address_is_outside_only_if_no_record_says_otherwise() -> None:
    views = views_of(Process(vmas=("a000-c000 rw-p", "e000-f000 rw-p")))
    views.vmas.start[0], views.vmas.end[0] = 0xB000, 0xD000
    held = Coverage(Context(views)).holds(
        np.full(5, mm_of(100), np.uint64), _u64(0xA000, 0xB000, 0xC000, 0xD000, 0xE000)
    )
    assert held.tolist() == [True, True, True, False, True]


def test_a_small_vma_within_a_large_one_does_not_end_it() -> None:
    views = views_of(Process(vmas=("a000-f000 rw-p", "b000-c000 rw-p")))
    assert Coverage(Context(views)).holds(_u64(mm_of(100)), _u64(0xE000)).all()


def test_room_below_a_stack_and_below_nothing_else() -> None:
    coverage = Coverage(Context(views_of(Process(vmas=("400000-402000 rw-p", "900000-902000 rw-p [stack]")))))
    mm, below = np.full(4, mm_of(100), np.uint64), STACK_GUARD_GAP
    address = _u64(0x900000 - below, 0x900000 - below - PAGE, 0x400000 - PAGE, 0x902000)
    assert coverage.may_grow_to(mm, address, below).tolist() == [True, False, False, False]


def test_only_of_maps_that_were_read_whole_outside_is_a_fact() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm_of(101))
    assert Coverage(Context(views)).whole(MMS).tolist() == [True, False, False]


def test_without_processes_nothing_is_held() -> None:
    views = views_of(Process(vmas=("a000-b000 rw-p",)))
    assert views.maple is not None
    views.maple = views.maple.take(slice(0))
    coverage = Coverage(Context(views))
    assert not coverage.holds(MMS, MMS).any()
    assert not coverage.may_grow_to(MMS, _u64(0, 1, 2), 1 << 20).any()
    assert coverage.gap(MMS, MMS).tolist() == [0, 0, 0]


def test_the_hull_of_ranges_holds_all_of_them_and_of_none_there_is_none() -> None:
    assert hull([(5, 6), (1, 2), (3, 9)]) == (1, 9)
    assert hull([]) is None


@pytest.mark.parametrize(
    ("ranges", "gaps"),
    [([(1, 3), (3, 5)], False), ([(3, 5), (1, 4)], False), ([(1, 2), (3, 4)], True), ([(7, 9)], False)],
)
def test_what_several_places_have_together_is_not_what_lies_between_them(
    ranges: list[tuple[int, int]], *, gaps: bool
) -> None:
    context = Context(views_of(Process(pid=100)))
    mm = np.full(len(ranges), mm_of(100), np.uint64)
    (found,) = context.per_mm(
        RULE, mm, lambda _: Evidence(what="", view="", address=0), lambda _: "", lambda row: ranges[row]
    )
    assert found.gaps is gaps
