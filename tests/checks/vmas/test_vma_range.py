"""VMA-RANGE on views made by hand."""

from __future__ import annotations

import pytest

from checks.handmade_operations import Doing, add_operations
from checks.handmade_rmap import add_reverse_maps
from checks.handmade_views import Process, entry_row, findings, mm_of, views_of, vma_row
from vmaforensics.checks.context import Context
from vmaforensics.checks.finding import Severity
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.structures.lock import Lock


def test_no_finding_where_bounds_and_index_agree() -> None:
    assert findings(views_of(Process()), "VMA-RANGE") == []


def test_a_vma_that_was_made_larger_than_its_index_range() -> None:
    views = views_of(Process(pid=100), Process(pid=101, vmas=("a000-c000 rw-p",)))
    views.vmas.end[vma_row(views, 0xA000)] = 0xE000
    (found,) = findings(views, "VMA-RANGE")
    assert (found.rule.id, found.mm, found.pid) == ("VMA-RANGE", mm_of(101), 101)
    assert (found.start, found.end) == (0xA000, 0xE000)
    (evidence,) = found.evidence
    assert (evidence.found, evidence.expected) == ("0xa000-0xe000", "0xa000-0xc000")
    assert views.maple is not None
    assert evidence.address == views.maple.slot[entry_row(views.maple, 0xA000)]


def test_vmas_of_one_process_are_one_finding() -> None:
    views = views_of(Process(vmas=("a000-c000 rw-p", "c000-d000 r--p", "f000-12000 rw-p")))
    views.vmas.end[:] -= 0x800
    (found,) = findings(views, "VMA-RANGE")
    assert len(found.evidence) == 3
    assert found.title.endswith("and 2 more")
    assert (found.start, found.end) == (0xA000, 0x12000)


def test_a_foreign_vma_is_left_to_another_rule() -> None:
    views = views_of(Process(), Process(pid=101))
    views.vmas.end[0] += 0x1000
    views.vmas.mm[0] = mm_of(101)
    assert findings(views, "VMA-RANGE") == []


def test_an_unread_vma_has_no_bounds() -> None:
    views = views_of(Process())
    views.vmas.ok[0], views.vmas.start[0], views.vmas.end[0] = False, 0, 0
    assert findings(views, "VMA-RANGE") == []


def test_list_and_tree_have_no_ranges_of_their_own() -> None:
    views = views_of(Process(), index="list")
    views.vmas.end[0] += 0x1000
    assert findings(views, "VMA-RANGE") == []


@pytest.mark.parametrize(("held", "severity"), [(False, Severity.HIGH), (True, Severity.LOW)])
def test_bounds_change_under_the_lock_of_the_reverse_map_too(held: bool, severity: Severity) -> None:
    views = views_of(Process(pid=100, vmas=("400000-402000 r-xp /bin/cat",), lock=Lock.WRITE))
    rmap = add_reverse_maps(views)
    rmap.mappings.held[:] = held
    views.vmas.end[:] -= 0x1000
    add_operations(views, Doing(pid=100, operation=Operation.ADJUST, functions=("vma_complete",)))
    (found,) = (found for found in run_checks(Context(views)) if found.rule.id == "VMA-RANGE")
    assert found.severity == severity
