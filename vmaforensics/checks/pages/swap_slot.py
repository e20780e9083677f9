"""SWAP-SLOT: swapped memory is another than its records say.

*Severity:* medium, confidence medium; low in images that were taken while the machine ran.

*Compared:* how many page-table entries of all address spaces name a slot with how many it counts (`swp_swapcount`), by
its byte of `swap_map` (up to 6.18) or its word in a table of clusters (`swap_cluster_info.table`, 7.x). Only where the
page tables of all of them could be read whole, but for entries of slots that are free. Slots of shared memory, bad
ones, and those of which the count goes on elsewhere are left out; tables of clusters count files and entries alike, so
that only a slot with too few is told there. Besides, the slot that each page of the swap cache says it is of
(`page->private`), with the page that the cache has for that slot (`swapper_spaces`, or the same word). What a disk,
zram or zswap has of a slot is not read.

*Guaranteed by:* an entry that is made or cleared changes the count of its slot (`swap_duplicate`, `swap_free`); a page
is added to the cache with its slot in `private`, and taken out of both (`__add_to_swap_cache`,
`__delete_from_swap_cache`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.unsettled_pages import LEAVE_PAGES, counted_whole
from vmaforensics.checks.rule import BUG, SMEAR, Confidence, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.pages.swap_slots import HAS_CACHE, disagreeing
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.pages.swap_slots import SwapView

RULE = Rule(
    id="SWAP-SLOT",
    title="swapped memory is another than its records say",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    why="A page that is in swap can be kept there after its entry was erased, or exchanged: an entry that was pointed "
    "at another slot, or a slot whose cached page was replaced, brings other memory back than went out.",
    benign=(SMEAR, BUG, "a machine that is being resumed from hibernation"),
    attack=("T1014", "T1564"),
    compares="the count of each slot of swap with the page-table entries that name it, and the slot of each page of "
    "the swap cache with what the cache has there",
    views=(View.PAGES, View.PAGE_TABLES),
    transient="while a page goes to swap or comes back, between the entry and the count",
    by_hand=("crash: swap", "crash: pte ENTRY", "crash: struct page.private PAGE"),
    steps=("frame",),
    rank=215,
    changed_by=(),
    in_flight=LEAVE_PAGES,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each address space with entries of slots that count otherwise, one for slots without an entry,
    one for the cache."""
    view = context.views.swap
    if view is None:
        return
    yield from _entries(context, view)
    yield from _cache(context, view)


def _entries(context: Context, view: SwapView) -> Iterator[Finding]:
    slots, whole = view.slots, counted_whole(context) is not None and view.whole
    wrong = slots.take(disagreeing(slots) if whole else disagreeing(slots) & (slots.word == 0) & view.whole)
    uses = view.uses.take(np.isin(view.uses.place, wrong.place))
    row = np.searchsorted(wrong.place, uses.place)
    counted = (wrong.word & ~np.uint8(HAS_CACHE)).astype(np.int64)

    def evidence(at: int) -> Evidence:
        found, entries = int(counted[row[at]]), int(wrong.entries[row[at]])
        return Evidence(
            what=f"the entry at {int(uses.va[at]):#x} names slot {_slot(int(uses.place[at]))}, which counts {found}; "
            f"{entries} entries name it",
            view=View.PAGE_TABLES.label,
            address=int(uses.where[at]),
            found=str(found),
            expected=str(entries),
        )

    page = context.views.arch.page_size
    mm = np.where(uses.mm_row >= 0, values_at(context.views.mms.mm, uses.mm_row), np.uint64(0))
    severity, confidence = _rank(context)
    for finding in context.per_mm(
        RULE,
        mm,
        evidence,
        lambda at: f"the swapped page at {int(uses.va[at]):#x} is in a slot of swap that counts otherwise",
        lambda at: (int(uses.va[at]), int(uses.va[at]) + page),
        lambda at: 1,
    ):
        yield (
            finding
            if severity is None or confidence is None
            else replace(finding, severity=severity, confidence=confidence)
        )
    nobodys = np.flatnonzero(wrong.entries == 0)
    if len(nobodys):
        yield context.finding(
            RULE,
            0,
            f"{context.pages(len(nobodys))}, in swap, that slots count and no page table has",
            _bounded(
                [
                    Evidence(
                        what=f"slot {_slot(int(wrong.place[at]))} counts {int(counted[at])} entries, none names it",
                        view=View.PAGE_TABLES.label,
                        address=0,
                        found=str(int(counted[at])),
                        expected="0",
                    )
                    for at in nobodys[:MOST].tolist()
                ],
                len(nobodys),
            ),
            severity=severity,
            confidence=confidence,
            apart=len(nobodys),
            by_others=True,
        )


def _cache(context: Context, view: SwapView) -> Iterator[Finding]:
    """Pages of the cache that its index does not have at their slot. ``found`` 0: taken out, or not yet put in."""
    wrong = view.cached.take(view.cached.found != view.cached.page)
    if not len(wrong):
        return
    severity, confidence = _rank(context)
    shift = context.views.arch.page_shift
    evidence = [
        Evidence(
            what=f"page frame {pfn:#x} is of slot {_slot(place)}, the swap cache has another page there",
            view=View.PAGES.label,
            address=pfn << shift,
            found=f"{found:#x}",
            expected=f"{page:#x}",
        )
        for pfn, place, found, page in zip(
            *(values[:MOST].tolist() for values in (wrong.pfn, wrong.place, wrong.found, wrong.page)), strict=True
        )
    ]
    yield context.finding(
        RULE,
        0,
        f"{context.pages(len(wrong))}, of the swap cache, of which it has another copy",
        _bounded(evidence, len(wrong)),
        severity=severity,
        confidence=confidence,
        apart=len(wrong),
        by_others=True,
    )


def _rank(context: Context) -> tuple[Severity | None, Confidence | None]:
    """Lower where records were read at different moments."""
    return (Severity.LOW, Confidence.LOW) if context.acquisition.live else (None, None)


def _slot(place: int) -> str:
    """A slot in words: number of the swap file, and page of it."""
    return f"{place >> 58}:{place & ((1 << 58) - 1):#x}"


def _bounded(evidence: list[Evidence], count: int) -> list[Evidence]:
    rest = [Evidence(what=f"and {count - MOST} more like these", view="", address=0)] if count > MOST else []
    return [*evidence, *rest]
