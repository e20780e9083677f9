"""PTE-ERASED: page counts other mappings than page tables hold.

*Compared:* the map count of pages with the number of entries that lead to them, over all processes. Only where the page
tables of all processes could be read whole. The place is named where just one area has room for the page.

*Guaranteed by:* every entry made or cleared changes the count of its page (mm/rmap.c).
"""

from __future__ import annotations

from vmaforensics.checks.rule import LAGS, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="PTE-ERASED",
    title="page counts other mappings than page tables hold",
    severity=Severity.HIGH,
    why="A page counts the entries that lead to it. One that was erased, or added, by hand leaves the count as it "
    "was: the contents are kept for later, out of reach of every tool that follows page tables.",
    compares="the map count of every small page with the number of entries that lead to it, over all processes",
    views=(View.PAGES, View.PAGE_TABLES),
    transient="between the entry and the count, under the page-table lock, which is not looked at",
    by_hand=("crash: struct page._mapcount PAGE  # the count less one",),
    steps=("frame", "memory", "area"),
    part=Part.CAUSE,
    rank=210,
    excused_by=LAGS,
)
