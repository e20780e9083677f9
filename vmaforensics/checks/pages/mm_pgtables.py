"""MM-PGTABLES: pgtables_bytes disagrees with the page tables.

*Compared:* `pgtables_bytes` with 4096 bytes for each PTE, PMD and PUD table, and for each table kept in store for an
anonymous huge page. Processes with a local descriptor table are left out: its tables lie in the kernel half and are
counted.

*Guaranteed by:* `mm_inc_nr_ptes`, `mm_inc_nr_pmds`, `mm_inc_nr_puds` (include/linux/mm.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import FORKS, LAGS, Apart, Part, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView

_HUGE: Final = 2  # level of the entries of huge pages for which a table is deposited

RULE = Rule(
    id="MM-PGTABLES",
    title="pgtables_bytes disagrees with the page tables",
    severity=Severity.MEDIUM,
    why="Every page-table page is counted. Tables that were linked in by hand are not, and hidden ones still are.",
    compares="pgtables_bytes with 4096 for each PTE, PMD and PUD table, and each kept in store for a huge page",
    views=(View.COUNTERS, View.PAGE_TABLES),
    transient="while tables are allocated or freed",
    by_hand=("crash: struct mm_struct.pgtables_bytes MM",),
    steps=("tables",),
    part=Part.TRACE,
    rank=410,
    excused_by=LAGS,
    changed_by=(*FORKS, Operation.MOVE),
    in_flight=(
        Apart(Operation.FAULT, 1),  # the table deposited for a huge page
        Apart(Operation.TABLE, 1),
        Apart(Operation.ZAP, 1),
        Apart(Operation.COLLAPSE, 1),
        Apart(Operation.SPLIT, 1),
    ),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process whose page tables were read whole."""
    view, offset = context.views.page_tables, context.views.mm_offsets.pgtables_bytes
    if view is None or offset is None:
        return
    mms = context.views.mms
    expected = table_bytes(view, context.views.vmas.file, len(mms))
    # A local descriptor table is mapped by page tables of its own in the kernel half.
    judged = view.whole & mms.ok & ~mms.other_tables & _deposits_known(view, len(mms))
    wrong = np.flatnonzero((mms.pgtables_bytes != expected) & judged)

    def evidence(row: int) -> Evidence:
        return Evidence(
            what="pgtables_bytes is not what the tables there are take",
            view=View.COUNTERS.label,
            address=int(mms.mm[wrong[row]]) + offset,
            found=str(int(mms.pgtables_bytes[wrong[row]])),
            expected=str(int(expected[wrong[row]])),
        )

    def title(row: int) -> str:
        return "pgtables_bytes disagrees with the page tables there are"

    def apart(row: int) -> int:
        return abs(int(mms.pgtables_bytes[wrong[row]]) - int(expected[wrong[row]])) // view.arch.page_size

    yield from context.per_mm(RULE, mms.mm[wrong], evidence, title, apart=apart)


def table_bytes(view: PageTablesView, files: U64, count: int) -> I64:
    """What ``pgtables_bytes`` of each of ``count`` mms should be; ``files`` is ``vm_file`` of each VMA.

    All tables, and those deposited for anonymous huge pages (pgtable_trans_huge_deposit, mm/huge_memory.c), the huge
    zero page's among them.
    """
    ptes, pages = view.entries.large(), view.pages
    counted = view.tables.owner[view.tables.level <= view.arch.counted_levels]
    anonymous = values_at(pages.anon & ~pages.hugetlb, ptes.page_row)
    # What nobody counts is the huge zero page in a VMA without a file, and memory of a device in others.
    of_file = values_at(files != 0, values_at(view.ranges.vma_row, ptes.range_row, -1))
    deposited = ptes.mm_row[(ptes.level == _HUGE) & (anonymous | (ptes.special & ~of_file))]
    tables = np.bincount(counted, minlength=count) + np.bincount(deposited, minlength=count)
    return tables.astype(np.int64) * view.arch.page_size


def _deposits_known(view: PageTablesView, count: int) -> Bools:
    """Was the struct page of every huge page of each mm read? It says whether a table is deposited for the page."""
    ptes = view.entries.large()
    lost = (ptes.level == _HUGE) & (ptes.page_row >= 0) & ~values_at(view.pages.ok, ptes.page_row)
    known: Bools = np.bincount(ptes.mm_row[lost], minlength=count) == 0
    return known
