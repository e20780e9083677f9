"""MM-RSS: resident-set counter disagrees with the page tables.

*Compared:* file, anonymous, shared-memory and swap counters, with their per-CPU or per-task parts, with the entries.
Only where the page tables and the pages could be read whole, and without migration or device-private entries.

While exec copies arguments, they are charged to the old memory map (`acct_arg_size`); that much, to the page, is no
contradiction.

*Guaranteed by:* `add_mm_counter` and its kin beside each entry made or cleared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.entry_facts import entry_facts
from vmaforensics.checks.pages.unsettled_pages import miscounted
from vmaforensics.checks.rule import FORKS, LAGS, Apart, Part, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.pages.rss import KINDS
from vmaforensics.views.processes.taskless_mms import MmState
from vmaforensics.views.slab.objects import State
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, Bools

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
    changed_by=FORKS,
    in_flight=(
        Apart(Operation.FAULT, 16),  # fault_around_bytes
        Apart(Operation.COPY_ON_WRITE, 1),
        Apart(Operation.SWAP_IN, 2),
        Apart(Operation.ZAP, 512),  # rss[] of zap_pte_range, until its table is done
        Apart(Operation.ZAP_OTHERS, 512),
        Apart(Operation.MOVE_ENTRIES, 1),
        Apart(Operation.RECLAIM, 2),
        Apart(Operation.MIGRATE, 1),
        Apart(Operation.COLLAPSE, 512),
        Apart(Operation.SPLIT, 512),
        Apart(Operation.SAME_PAGE, 1),
        Apart(Operation.CHANGE_ENTRIES, 512),  # modify_prot_start_ptes
        Apart(Operation.CLEAN, 1),
    ),
)


_ANONYMOUS = KINDS.index("MM_ANONPAGES")


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process whose page tables, pages and counters were read whole."""
    view = context.views.page_tables
    if view is None:
        return
    mms, sums = context.views.mms, context.shared(entry_facts).sums
    counted, judged = sums.pages, view.whole & view.rss_ok & ~sums.unclear
    wrong = (counted != view.rss) & judged[:, None]
    wrong[:, _ANONYMOUS] &= ~_is_of_arguments(context, view.rss[:, _ANONYMOUS] - counted[:, _ANONYMOUS])
    row, kind = np.nonzero(wrong)

    def evidence(at: int) -> Evidence:
        stored, there = int(view.rss[row[at], kind[at]]), int(counted[row[at], kind[at]])
        return Evidence(
            what=f"{KINDS[int(kind[at])]} is {stored} pages, the page tables hold {there}",
            view=View.COUNTERS.label,
            address=int(mms.mm[row[at]]),
            found=str(stored),
            expected=str(there),
        )

    def title(at: int) -> str:
        return f"{KINDS[int(kind[at])]} disagrees with what the page tables hold"

    def apart(at: int) -> int:
        return abs(int(view.rss[row[at], kind[at]]) - int(counted[row[at], kind[at]]))

    # Some page of it is in the hands of another task, or may have been until its last entry of a table was cleared.
    at_work, operations = set(context.shared(miscounted).unsettled.values()), context.views.operations
    zaps = operations is not None and bool((operations.under_way.operation == Operation.ZAP_OTHERS).any())
    by_others = [zaps or mm in at_work for mm in mms.mm[row].tolist()]
    yield from context.per_mm(RULE, mms.mm[row], evidence, title, apart=apart, by_others=by_others.__getitem__)


def _is_of_arguments(context: Context, excess: I64) -> Bools:
    """Is what each mm counts too much what acct_arg_size (fs/exec.c) has charged it with?

    While exec copies the arguments of the new program, the area they are in, all there is of an mm that no task has
    yet, counts for the old one as a whole. The page that is being added may be counted or not.
    """
    found = np.zeros(len(excess), np.bool_)
    taskless, sources, strays = context.views.taskless, context.views.sources, context.views.strays
    if taskless is None or sources is None or strays is None:
        return found
    arguments = np.flatnonzero(taskless.state == MmState.EXEC)
    old = context.views.mm_rows(values_at(sources.tasks.mm, sources.task_rows(taskless.owner[arguments])))
    for mm, row in zip(taskless.mms.mm[arguments], old.tolist(), strict=True):
        areas = np.flatnonzero((strays.vmas.mm == mm) & (strays.state == State.ALLOCATED) & strays.vmas.ok)
        if row >= 0 and len(areas) == 1:
            size = int(strays.vmas.end[areas[0]] - strays.vmas.start[areas[0]]) // context.views.arch.page_size
            found[row] = size - 1 <= excess[row] <= size
    return found
