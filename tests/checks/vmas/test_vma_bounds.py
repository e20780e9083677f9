"""VMA-BOUNDS on views made by hand."""

from __future__ import annotations

import pytest

from checks.handmade_views import TASK_SIZE, Process, findings, views_of


def test_no_finding_up_to_the_very_top_of_user_space() -> None:
    assert findings(views_of(Process(vmas=(f"{TASK_SIZE - 0x1000:x}-{TASK_SIZE:x} rw-p",))), "VMA-BOUNDS") == []


@pytest.mark.parametrize(
    ("start", "end", "why"),
    [
        (0x402000, 0x402000, "empty"),
        (0x403000, 0x402000, "empty"),
        (0x400800, 0x402000, "aligned"),
        (0x400000, 0x401FFF, "aligned"),
        (0x400000, TASK_SIZE + 0x1000, "above user space"),
    ],
)
def test_bounds_that_cannot_be(start: int, end: int, why: str) -> None:
    views = views_of(Process())
    views.vmas.start[0], views.vmas.end[0] = start, end
    (found,) = findings(views, "VMA-BOUNDS")
    assert why in found.title
    assert (found.start, found.end) == (start, end)


def test_without_a_known_top_nothing_is_above_it() -> None:
    views = views_of(Process())
    views.mms.task_size[0], views.mms.ok[0] = 0, False
    views.vmas.end[0] = TASK_SIZE + 0x1000
    assert findings(views, "VMA-BOUNDS") == []


def test_all_is_above_a_top_that_was_taken_away() -> None:
    """What exec has before setup_new_exec, and nobody else."""
    views = views_of(Process(), Process(pid=200))
    views.mms.task_size[0] = 0
    (found,) = findings(views, "VMA-BOUNDS")
    assert found.apart == int((views.vmas.mm == views.mms.mm[0]).sum())


def test_where_the_member_is_lost_nothing_is_above_it() -> None:
    views = views_of(Process(), Process(pid=200))
    views.mms.task_size[:] = 0
    assert findings(views, "VMA-BOUNDS") == []


def test_an_unread_vma_has_no_bounds() -> None:
    views = views_of(Process())
    views.vmas.end[0], views.vmas.ok[0] = 0, False
    assert findings(views, "VMA-BOUNDS") == []
