"""What is scanned together, and how often: every page in every neighbourhood it has, and no more often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vmaforensics.scan.places import PlaceKind, PlacePages, free_pages_of, kinds_named
from vmaforensics.scan.plan import GAP, LONGEST, LONGEST_FRAMES, OVERLAP, PlanPages, Stretches, batches, make_plan
from vmaforensics.scan.worker import entropy
from vmaforensics.views.pages.frame_kinds import FrameKinds


def region(owner: int, *pages: tuple[int, int], kind: PlaceKind = PlaceKind.REGION) -> PlacePages:
    """Pages (at, pfn) of one region."""
    at, pfn = zip(*pages, strict=True)
    return PlacePages.of(kind=[kind] * len(pages), owner=[owner] * len(pages), at=at, pfn=pfn)


def told(stretches: Stretches, pages: PlanPages) -> list[tuple[int, list[int | None]]]:
    """(owner, frames) of each stretch; None for a page that is not there."""
    found = []
    for owner, first, count in zip(
        stretches.owner.tolist(), stretches.first.tolist(), stretches.count.tolist(), strict=True
    ):
        part = pages.take(slice(first, first + count))
        found.append(
            (owner, [pfn if held else None for pfn, held in zip(part.pfn.tolist(), part.held.tolist(), strict=True)])
        )
    return found


def test_what_fifty_processes_share_is_scanned_once() -> None:
    plan = make_plan([region(number, (5, 70), (6, 71), (7, 72)) for number in range(50)])
    assert told(*plan[:2]) == [(0, [70, 71, 72])]
    assert plan[2] == 49 * 3


def test_a_part_of_what_was_scanned_is_not_scanned_again() -> None:
    stretches, pages, shared = make_plan([region(1, (5, 70), (6, 71), (7, 72)), region(2, (8, 71), (9, 72))])
    assert told(stretches, pages) == [(1, [70, 71, 72])]
    assert shared == 2


def test_a_region_with_one_page_of_its_own_is_scanned_whole() -> None:
    """The condition of a rule is about all of it."""
    stretches, pages, _ = make_plan([region(1, (5, 70), (6, 71), (7, 72)), region(2, (5, 70), (6, 99), (7, 72))])
    assert told(stretches, pages) == [(1, [70, 71, 72]), (2, [70, 99, 72])]


def test_known_pages_in_a_new_order_are_scanned_again() -> None:
    """What a pattern finds may begin in one page and end in the next."""
    stretches, pages, _ = make_plan([region(1, (5, 70), (6, 71)), region(2, (5, 71), (6, 70))])
    assert told(stretches, pages) == [(1, [70, 71]), (2, [71, 70])]


def test_pages_that_are_not_there_are_zeros_up_to_a_bound() -> None:
    stretches, pages, _ = make_plan([region(1, (5, 70), (8, 71), (9 + GAP + 1, 72))])
    assert told(stretches, pages) == [(1, [70, None, None, 71]), (1, [72])]
    assert stretches.at.tolist() == [5, 9 + GAP + 1]


def test_long_stretches_are_cut_with_an_overlap() -> None:
    for kind, longest in ((PlaceKind.FILE, LONGEST), (PlaceKind.FREE, LONGEST_FRAMES)):
        count = 2 * longest + 5
        stretches, pages, _ = make_plan([region(0, *((at, at + 9) for at in range(count)), kind=kind)])
        seen: set[int] = set()
        for number, (_, frames) in enumerate(told(stretches, pages)):
            assert len(frames) <= longest
            assert int(stretches.at[number]) + 9 == frames[0]
            assert not number or len(seen.intersection(frames)) >= OVERLAP
            seen.update(frame for frame in frames if frame is not None)
        assert seen == set(range(9, count + 9))


def test_batches_hold_every_stretch_once() -> None:
    stretches = Stretches.of(first=[0, 3, 5, 9], count=[3, 2, 4, 1])
    assert [(part.start, part.stop) for part in batches(stretches, 4)] == [(0, 2), (2, 3), (3, 4)]


def test_kinds_are_named_by_words() -> None:
    assert kinds_named("free, files") == (PlaceKind.FREE, PlaceKind.FILE)
    with pytest.raises(ValueError, match="known are files"):
        kinds_named("everything")


def test_entropy_is_that_of_shannon() -> None:
    assert entropy(np.zeros(100, np.uint8)) == 0
    assert entropy(np.array([0, 1] * 50, np.uint8)) == 1


def test_free_frames_come_some_at_a_time() -> None:
    kinds = FrameKinds(
        ranges=np.array([[10, 16], [40, 44]], np.uint64),
        kinds=np.array([1, 2, 3, 1, 1, 1, 1, 3, 3, 2], np.uint8),
        free=np.array([[16, 40], [50, 60]], np.uint64),
    )
    views: Any = SimpleNamespace(frames=SimpleNamespace(kinds=kinds))
    every = [10, 11, *range(13, 41), 43, *range(50, 60)]
    for most in (1, 3, 7, 41, 100):
        parts = list(free_pages_of(views, most))
        assert all(0 < len(part) <= most for part in parts)
        assert [pfn for part in parts for pfn in part.pfn.tolist()] == every
    assert list(free_pages_of(SimpleNamespace(frames=None), 5)) == []  # type: ignore[arg-type]
