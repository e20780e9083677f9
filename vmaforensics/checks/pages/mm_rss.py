"""MM-RSS: resident-set counter disagrees with the page tables.

*Compared:* file, anonymous, shared-memory and swap counters, with their per-CPU or per-task parts, with the entries.
Only where the page tables and the pages could be read whole, and without migration or device-private entries.

*Guaranteed by:* `add_mm_counter` and its kin beside each entry made or cleared.
"""

from __future__ import annotations

from vmaforensics.checks.rule import LAGS, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="MM-RSS",
    title="resident-set counter disagrees with the page tables",
    severity=Severity.MEDIUM,
    why="The counters are exact once all their parts are added. Entries added or erased by hand are not counted.",
    compares="the counters of file, anonymous, shared-memory and swap pages, with their parts, with the entries",
    views=(View.COUNTERS, View.PAGE_TABLES, View.PAGES),
    transient="clearing of entries is batched (mmu_gather)",
    by_hand=("crash: struct mm_struct.rss_stat MM",),
    steps=("resident", "index"),
    part=Part.TRACE,
    rank=400,
    excused_by=LAGS,
)
