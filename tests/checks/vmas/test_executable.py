"""VMA-EXEC-MEMFD, VMA-EXEC-DELETED and VMA-EXEC-ANON on views made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.finding import Severity

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

RULES = ("VMA-EXEC-MEMFD", "VMA-EXEC-DELETED", "VMA-EXEC-ANON")


def _ranges(views: Views) -> dict[str, list[tuple[int | None, int | None]]]:
    return {rule: [(found.start, found.end) for found in findings(views, rule)] for rule in RULES}


def test_code_of_files_that_are_there_is_listed_by_none() -> None:
    assert _ranges(views_of(Process())) == {rule: [] for rule in RULES}


def test_each_kind_is_listed_by_its_rule() -> None:
    vmas = ("a000-b000 r-xp /memfd:x (deleted)", "c000-d000 r-xp /tmp/y (deleted)", "e000-f000 rwxp", "f000-11000 rw-p")
    views = views_of(Process(vmas=vmas))
    assert _ranges(views) == {
        "VMA-EXEC-MEMFD": [(0xA000, 0xB000)],
        "VMA-EXEC-DELETED": [(0xC000, 0xD000)],
        "VMA-EXEC-ANON": [(0xE000, 0xF000)],
    }


def test_one_finding_for_each_process_that_says_little() -> None:
    vmas = ("a000-b000 r-xp", "c000-d000 rwxp")
    first, second = findings(views_of(Process(vmas=vmas), Process(pid=101, vmas=vmas)), "VMA-EXEC-ANON")
    assert (first.mm, second.mm) == (mm_of(100), mm_of(101))
    assert len(first.evidence) == 2
    assert first.severity is Severity.LOW


def test_a_vma_in_two_indices_is_listed_once() -> None:
    (found,) = findings(views_of(Process(vmas=("a000-b000 r-xp",)), index="list"), "VMA-EXEC-ANON")
    assert len(found.evidence) == 1


def test_without_the_files_none_is_deleted() -> None:
    views = views_of(Process(vmas=("c000-d000 r-xp /tmp/y (deleted)",)))
    views.files = None
    assert findings(views, "VMA-EXEC-DELETED") == []
