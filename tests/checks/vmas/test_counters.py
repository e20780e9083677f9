"""VMA-MISSING, VMA-SURPLUS and MM-COUNTER: which way counters and VMAs differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_views import Process, add_problem, drop_entry, findings, mm_of, views_of, vma_row
from vmaforensics.checks.finding import Confidence, Severity
from vmaforensics.checks.vmas.counters import exact_counters
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

_SHADOW_STACK = 1 << 37
RULES = ("VMA-MISSING", "VMA-SURPLUS", "MM-COUNTER")
FOUR = Process(
    vmas=(
        "400000-402000 r-xp /bin/cat",
        "500000-503000 rw-p",
        "600000-604000 r--p /bin/cat",
        "7f0000-7f1000 rw-p [stack]",
    )
)


def _rules(views: Views) -> list[str]:
    return [rule for rule in RULES for _ in findings(views, rule)]


@pytest.mark.parametrize("index", ["maple", "list"])
def test_no_finding_where_counters_are_the_sums(index: str) -> None:
    assert _rules(views_of(FOUR, index=index)) == []


@pytest.mark.parametrize(
    ("start", "pages", "kind"),
    [(0x400000, 2, "executable VMA"), (0x500000, 3, "writable private VMA"), (0x7F0000, 1, "stack VMA")],
)
def test_a_vma_that_is_in_no_index_is_missing(start: int, pages: int, kind: str) -> None:
    """Without nodes of a tree, the place is the room between the VMAs around it, if it is of just that size."""
    views = views_of(FOUR, index="list")
    drop_entry(views, start, "vma_list")
    drop_entry(views, start, "rbtree")
    (found,) = findings(views, "VMA-MISSING")
    assert _rules(views) == ["VMA-MISSING"]
    assert kind in found.title
    assert found.evidence[0].what == "map_count is 4, the VMAs add up to 3"
    assert f"total_vm is {10}, the VMAs add up to {10 - pages}" in [item.what for item in found.evidence]
    assert found.evidence[0].address == mm_of(100) + views.mm_offsets.map_count


def test_the_place_is_named_where_one_gap_has_just_that_size() -> None:
    views = views_of(
        Process(vmas=("400000-401000 r-xp", "401000-403000 rw-p", "403000-404000 r--p", "500000-501000 rw-p"))
    )
    drop_entry(views, 0x401000)
    views.maple_nodes.slots[views.maple_nodes.slots == views.vmas.vma[vma_row(views, 0x401000)]] = 0
    (found,) = findings(views, "VMA-MISSING")
    assert (found.start, found.end) == (0x401000, 0x403000)
    assert found.confidence is Confidence.HIGH


def test_a_counter_beyond_63_bits_is_shown_as_the_unsigned_long_it_is() -> None:
    views = views_of(FOUR)
    views.mms.total_vm[0] = 2**64 - 5
    assert exact_counters(views.mms).total_vm.tolist() == [2**64 - 5]
    (found,) = findings(views, "VMA-SURPLUS")
    assert (found.evidence[0].found, found.evidence[0].expected) == (str(2**64 - 5), "10")


def test_a_vma_that_was_never_counted_in_is_surplus() -> None:
    views = views_of(FOUR)
    views.mms.map_count[0] -= 1
    views.mms.total_vm[0] -= 3
    views.mms.data_vm[0] -= 3
    (found,) = findings(views, "VMA-SURPLUS")
    assert _rules(views) == ["VMA-SURPLUS"]
    assert "1 VMA more" in found.title
    assert (found.start, found.severity) == (None, Severity.HIGH)


def test_pages_that_were_executable_and_are_not_weigh_more() -> None:
    """mprotect by hand: the flag is gone, exec_vm still counts the pages."""
    views = views_of(FOUR)
    views.vmas.flags[vma_row(views, 0x400000)] &= ~np.uint64(flags.VM_EXEC)
    (found,) = findings(views, "MM-COUNTER")
    assert _rules(views) == ["MM-COUNTER"]
    assert found.severity is Severity.HIGH
    assert any("0x400000-0x402000, read-only" in item.what for item in found.evidence)


def test_more_vmas_with_fewer_pages_are_neither() -> None:
    views = views_of(FOUR)
    views.mms.map_count[0] += 1
    views.mms.total_vm[0] -= 1
    assert _rules(views) == ["MM-COUNTER"]


def test_a_resized_vma_explains_page_counts() -> None:
    """Its index range is another than its own: VMA-RANGE says so, and no VMA is missing."""
    views = views_of(FOUR)
    views.vmas.end[0] -= 0x1000
    assert _rules(views) == ["MM-COUNTER"]


def test_locked_vm_may_be_more_and_not_less() -> None:
    views = views_of(FOUR)
    views.vmas.flags[vma_row(views, 0x500000)] |= np.uint64(flags.VM_LOCKED)
    for locked, expected in ((2, ["MM-COUNTER"]), (3, []), (4, [])):
        views.mms.locked_vm[0] = locked
        assert _rules(views) == expected


def test_shadow_stacks_count_as_stacks_where_the_kernel_has_them() -> None:
    views = views_of(FOUR)
    views.vmas.flags[vma_row(views, 0x500000)] |= np.uint64(_SHADOW_STACK)
    assert _rules(views) == []
    views.shadow_stack_flag = _SHADOW_STACK
    assert _rules(views) == ["MM-COUNTER"]
    views.mms.stack_vm[0] += 3
    views.mms.data_vm[0] -= 3
    assert _rules(views) == []


@pytest.mark.parametrize("what", ["node", "vma", "mm"])
def test_nothing_is_missing_from_what_was_not_read_whole(what: str) -> None:
    views = views_of(FOUR)
    views.mms.map_count[0] += 1
    views.mms.total_vm[0] += 1
    if what == "node":
        add_problem(views, View.MAPLE, Problem.UNREADABLE, mm_of(100))
    elif what == "vma":
        views.vmas.ok[1] = False
    else:
        views.mms.ok[0] = False
    assert _rules(views) == []


def test_a_slot_that_was_emptied_is_found_though_counters_were_repaired() -> None:
    """Its leaf, the second of three, had no gap before, and its parent records none."""
    touching = [f"{at:x}-{at + 0x3000:x} rw-p" for at in range(0x30000, 0x6C000, 0x3000)]
    views = views_of(Process(vmas=touching), per_leaf=8)
    drop_entry(views, 0x4E000)
    views.maple_nodes.slots[views.maple_nodes.slots == views.vmas.vma[vma_row(views, 0x4E000)]] = 0
    views.mms.map_count[0] -= 1
    views.mms.total_vm[0] -= 3
    views.mms.data_vm[0] -= 3
    (found,) = findings(views, "VMA-MISSING")
    assert "counters repaired" in found.title
    assert (found.start, found.end) == (0x4E000, 0x51000)
    assert found.confidence is Confidence.MEDIUM
