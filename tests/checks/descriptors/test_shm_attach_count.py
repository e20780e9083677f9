"""SHM-ATTACH-COUNT on segments made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from checks.handmade_handles import add_handles
from checks.handmade_operations import Doing, add_operations
from checks.handmade_rmap import add_reverse_maps
from checks.handmade_views import Process, add_problem, findings, mm_of, views_of
from vmaforensics.checks.rule import Severity
from vmaforensics.views.descriptors.sysv import Segments
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.problems import Problem
from vmaforensics.views.structures.lock import Lock
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

_VMAS = ("400000-402000 r-xp /bin/cat", "500000-502000 rw-s /memfd:SYSV00000007")


def _views(nattch: int, *, lock: Lock = Lock.FREE) -> Views:
    """Two processes that have attached a segment of two pages."""
    views = views_of(Process(pid=100, vmas=_VMAS), Process(pid=101, vmas=_VMAS, lock=lock))
    assert views.files is not None
    mapping = views.files.rows.mapping[1]
    segment = Segments.of(
        1, id=[7], nattch=[nattch], nattch_at=[0x9000], size=[0x2000], mapping=[mapping], last_pid=[101]
    )
    add_handles(views, segments=segment)
    return views


def test_a_count_that_is_right_is_none() -> None:
    assert findings(_views(2), "SHM-ATTACH-COUNT") == []


def test_a_vma_too_few_is_held_against_who_attached_last() -> None:
    (found,) = findings(_views(3), "SHM-ATTACH-COUNT")
    assert found.title == "1 VMA that maps System V segment 7 (2 pages, 8 KiB) is hidden"
    assert (found.mm, found.start, found.severity) == (mm_of(101), None, Severity.HIGH)
    count = found.evidence[0]
    assert (count.address, count.found, count.expected) == (0x9000, "3", "2")


def test_the_hidden_vma_is_named_where_i_mmap_has_it() -> None:
    views = _views(2)
    add_reverse_maps(views)
    entries = views.maple
    assert entries is not None
    views.maple = entries.take((entries.start != 0x500000) | (entries.mm == mm_of(101)))
    (found,) = findings(views, "SHM-ATTACH-COUNT")
    assert (found.mm, found.start, found.end) == (mm_of(100), 0x500000, 0x502000)


def test_more_vmas_than_counted_rank_medium() -> None:
    (found,) = findings(_views(1), "SHM-ATTACH-COUNT")
    assert found.severity is Severity.MEDIUM
    assert found.title == "System V segment 7 is mapped by 2 VMAs and counts 1"


def test_while_a_map_is_changed_it_ranks_low() -> None:
    (found,) = findings(_views(3, lock=Lock.WRITE), "SHM-ATTACH-COUNT")
    assert found.severity is Severity.LOW


@pytest.mark.parametrize("unclear", [(), (100,)])
def test_what_is_seen_to_end_counts_though_other_stacks_are_not_clear(unclear: tuple[int, ...]) -> None:
    """Exec lets the old map go when the task has the new one: no lock and no flag tells (setup_new_exec, 7.3)."""
    views = _views(3)
    add_operations(views, unclear=unclear)
    assert [found.severity for found in findings(views, "SHM-ATTACH-COUNT")] == [Severity.HIGH]
    ends = Doing(pid=101, operation=Operation.EXIT, functions=("exit_mmap", "__mmput", "setup_new_exec"))
    add_operations(views, ends, unclear=unclear)
    assert [found.severity for found in findings(views, "SHM-ATTACH-COUNT")] == [Severity.LOW]


def test_vmas_may_be_missing_because_they_were_not_read() -> None:
    views = _views(3)
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm=mm_of(100))
    assert findings(views, "SHM-ATTACH-COUNT") == []
    views = _views(3)
    views.mms.ok[0] = False
    assert findings(views, "SHM-ATTACH-COUNT") == []
