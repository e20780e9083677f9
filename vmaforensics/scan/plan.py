"""Which pages are scanned together, so that each is scanned in every neighbourhood it has, and no more often.

A page that many processes share is scanned once: the page cache goes first, in the order of each file; of what
processes map, a stretch is scanned again only if it holds a page that was not scanned yet, or two pages one behind the
other that were not. Such a stretch is scanned whole, for the condition of a rule is about all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.ragged import expand
from vmaforensics.columns.runs import begins_run, run_lasts, run_numbers, run_starts
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U8, U64, Bools
from vmaforensics.scan.places import PlaceKind, PlacePages

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = 16  # pages that are not there between two that are: up to so many are scanned as zeros
LONGEST = 1 << 12  # pages of a file or an address space scanned together
LONGEST_FRAMES = 1 << 9  # of frames without an order of their own
OVERLAP = 4  # pages that two parts of a longer stretch have in common


@table()
class Stretches(Table):
    """Pages that are scanned together; ``first`` and ``count`` are rows of the pages of a plan."""

    first: I64
    count: I64
    kind: U8  # PlaceKind
    owner: I64 = column(fill=-1)  # as of PlacePages
    at: U64  # page of the first


@table()
class PlanPages(Table):
    """The pages of all stretches, one after the other."""

    pfn: U64
    held: Bools  # False: nothing is there, zeros are scanned


def make_plan(parts: Sequence[PlacePages]) -> tuple[Stretches, PlanPages, int]:
    """The stretches of all ``parts``, the first of which count first; their pages; how many pages were left out because
    they had been scanned in the same neighbourhood."""
    pages = PlacePages.concatenate(parts)
    if not len(pages):
        return Stretches.zeros(0), PlanPages.zeros(0), 0
    begins = begins_run(pages.kind, pages.owner)
    with np.errstate(over="ignore"):
        step = np.concatenate([np.zeros(1, np.uint64), pages.at[1:] - pages.at[:-1]])
    begins[1:] |= (step[1:] == 0) | (step[1:] > GAP + 1)
    wanted = _not_yet(pages, begins, follows=step == 1)
    number = run_numbers(begins)
    chosen = np.zeros(int(number[-1]) + 1, np.bool_)
    chosen[number[wanted]] = True
    kept = chosen[number]
    left_out = int((~kept).sum())
    pages, begins, step = pages.take(kept), begins[kept], step[kept]
    # Where a few pages are not there, as many rows without a page.
    width = np.where(begins, np.uint64(1), step).astype(np.int64)
    row, place = expand(width)
    held = place == width[row] - 1
    first = run_starts(begins)
    starts = np.cumsum(width)[first] - width[first]
    rows = PlanPages.of(pfn=np.where(held, pages.pfn[row], np.uint64(0)), held=held)
    counts = np.append(starts[1:], len(rows)) - starts
    head = pages.take(first)
    whole = Stretches.of(first=starts, count=counts, kind=head.kind, owner=head.owner, at=head.at)
    return _bounded(whole), rows, left_out


def _not_yet(pages: PlacePages, begins: Bools, *, follows: Bools) -> Bools:
    """Which pages bring something that no page before them has: a frame, or a frame behind its neighbour."""
    frames, first, frame = np.unique(pages.pfn, return_index=True, return_inverse=True)
    new = np.zeros(len(pages), np.bool_)
    new[first] = True
    behind = np.flatnonzero(follows & ~begins)
    pair = frame[behind - 1] * len(frames) + frame[behind]
    _, first = np.unique(pair, return_index=True)
    new[behind[first]] = True
    return new


def _bounded(whole: Stretches) -> Stretches:
    """The stretches, longer ones cut into parts that overlap."""
    longest = np.where(whole.kind >= PlaceKind.UNMAPPED, LONGEST_FRAMES, LONGEST)
    parts = np.maximum(-(-(whole.count - OVERLAP) // (longest - OVERLAP)), 1)
    row, place = expand(parts)
    cut, longest = whole.take(row), longest[row]
    before = place * (longest - OVERLAP)
    cut.first[:] += before
    cut.at[:] += before.astype(np.uint64)
    cut.count[:] = np.minimum(cut.count - before, longest)
    return cut


def batches(stretches: Stretches, most: int) -> list[slice]:
    """Neighbouring stretches of about ``most`` pages together."""
    number = (np.cumsum(stretches.count) - stretches.count) // most
    first = run_starts(begins_run(number))
    lasts = run_lasts(first, len(stretches))
    return [slice(low, last + 1) for low, last in zip(first.tolist(), lasts.tolist(), strict=True)]
