"""The page tables against the areas, the pages and the counters.

Every entry of the user half lies in an area, allows what the area allows and no more, leads to a page that
names the area's own file or anon_vma at the right offset, and is counted there: free_pgtables,
zap_pte_range, __page_set_anon_rmap (mm/memory.c, mm/rmap.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, TablePages
from vmaforensics.checks import rules
from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.checks.pages.page_marks import MARKS, entry_marks
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding, Rule
    from vmaforensics.views.pages.page_tables import PageTablesView


def check_page_tables(context: Context) -> Iterator[Finding]:
    """PTE-ORPHAN, PTE-PERM, PTE-KERNEL, PTE-REMAP, VMA-PROT and PT-SHARED."""
    view = context.views.page_tables
    if view is None:
        return
    yield from _orphans(context, view)
    yield from _marked(context, view)
    yield from _page_prot(context)
    yield from _shared_tables(context, view)
    yield from _isolation(context, view)


def _orphans(context: Context, view: PageTablesView) -> Iterator[Finding]:
    ptes = view.ptes[view.orphans]
    mm = context.views.mms["mm"][ptes["mm_row"]]
    # Said of a process only if its whole map was read: an area on a lost page may be what is missing.
    certain = np.ones(len(ptes), np.bool_)
    for index in context.views.regions():
        certain &= context.decoded(index, mm)
    runs = Runs.of(view, view.orphans[certain])
    contents = dict(zip(view.orphans.tolist(), view.contents, strict=False))

    def evidence(row: int) -> Evidence:
        first = runs.first(row)
        executable = int(view.ptes["allow"][first]) & ALLOW_EXECUTE
        held = contents.get(first, "")
        return Evidence(
            what=f"page tables map {runs.text(row)} as {'executable' if executable else 'data'}, in no area"
            + (f"; its first page holds {held}" if held else ""),
            view=View.PAGE_TABLES.label,
            address=int(view.ptes["where"][first]),
            found=f"{int(view.ptes['entry'][first]):#x}",
        )

    yield from context.per_mm(
        rules.PTE_ORPHAN,
        runs.mm(context),
        evidence,
        lambda row: f"page tables map {runs.text(row)} outside every area of the process",
        runs.bounds,
    )


def _tell(context: Context, rule: Rule, view: PageTablesView, wrong: NDArray[np.intp], what: str) -> Iterator[Finding]:
    """One finding per process for entries that are wrong in the same way; ``what`` ends the sentence."""
    runs = Runs.of(view, wrong)

    def evidence(row: int) -> Evidence:
        first = runs.first(row)
        return Evidence(
            what=f"{runs.text(row)} {what}",
            view=View.PAGE_TABLES.label,
            address=int(view.ptes["where"][first]),
            found=f"{int(view.ptes['entry'][first]):#x}",
        )

    yield from context.per_mm(rule, runs.mm(context), evidence, lambda row: f"{runs.text(row)} {what}", runs.bounds)


def _marked(context: Context, view: PageTablesView) -> Iterator[Finding]:
    """PTE-PERM, PTE-KERNEL and PTE-REMAP; orphans are told with their contents, by :func:`_orphans`."""
    words = entry_marks(context.views, np.arange(len(view.ptes)))
    rows = np.flatnonzero(words)
    words = words[rows]
    for bit, mark in enumerate(MARKS):
        if mark.rule is not rules.PTE_ORPHAN:
            yield from _tell(context, mark.rule, view, rows[(words >> np.uint32(bit) & np.uint32(1)) != 0], mark.said)


def _page_prot(context: Context) -> Iterator[Finding]:
    """vm_page_prot follows from vm_flags (vm_get_page_prot); without access nothing is said."""
    rows = context.views.regions()[context.index]
    vmas = context.views.vmas[rows["vma_row"]]
    prot, vm_flags = context.views.arch.protection(vmas["page_prot"]), vmas["flags"]
    judged = vmas["ok"] & prot.present
    may_execute = (vm_flags & np.uint64(flags.VM_EXEC)) != 0
    may_write = (vm_flags & np.uint64(flags.VM_WRITE | flags.VM_SHARED)) == np.uint64(flags.VM_WRITE | flags.VM_SHARED)
    wrong = np.flatnonzero(judged & ((prot.execute != may_execute) | (prot.write & ~may_write)))
    rows, vmas = rows[wrong], vmas[wrong]

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"vm_page_prot of {int(vmas['vma'][row]):#x} is {int(vmas['page_prot'][row]):#x}, vm_flags are "
            f"{int(vmas['flags'][row]):#x}",
            view=View.VMA.label,
            address=int(vmas["vma"][row]),
        )

    yield from context.per_mm(
        rules.PROT,
        rows["mm"],
        evidence,
        lambda row: f"vm_page_prot of the {context.area(int(vmas['vma'][row]))} allows other than its vm_flags",
        lambda row: (int(vmas["start"][row]), int(vmas["end"][row])),
    )


def _shared_tables(context: Context, view: PageTablesView) -> Iterator[Finding]:
    """A page table belongs to one place of one process; only tables of huge pages may be shared (huge_pmd_share)."""
    tables = TablePages.concatenate([view.tables, view.repeated])
    distinct, group, count = np.unique(tables["pa"], return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    size = view.arch.table_span(tables.level)
    # What a table maps decides: entries of areas of huge pages excuse it.
    huge = (view.ranges["vma_row"] >= 0) & (
        context.views.vmas["kind"][np.maximum(view.ranges["vma_row"], 0)] == Kind.HUGETLB
    )
    first = view.ranges.rows_at(view.arch, tables.owner, tables.va)
    last = view.ranges.rows_at(view.arch, tables.owner, tables.va + size - np.uint64(1))
    excused = ((first >= 0) & huge[first]) | ((last >= 0) & huge[last])
    wrong = (count[group] > 1) & ~(excused & (tables["level"] == 2))
    # Hung in where no area is, a table is out of place; told is that place, not the one it was taken from.
    stray = wrong & ~_holds_area(view, tables["owner"], tables["va"], size)
    strays = np.bincount(group[stray], minlength=len(distinct))
    proper = np.bincount(group[wrong & ~stray], minlength=len(distinct))
    wrong &= stray | (strays[group] == 0) | (proper[group] == 0)
    rows = tables[wrong]
    size, group = size[wrong], group[wrong]
    pids = context.views.mms["pid"][tables["owner"]]
    edges = np.concatenate([[0], np.cumsum(count)])

    def evidence(row: int) -> Evidence:
        mine = order[edges[group[row]] : edges[group[row] + 1]]
        places = [f"{int(tables['va'][at]):#x} of process {int(pids[at])}" for at in mine[:MOST].tolist()]
        return Evidence(
            what=f"the level {int(rows['level'][row])} table at physical {int(rows['pa'][row]):#x} is reached more "
            f"than once: for {', '.join(places)}",
            view=View.PAGE_TABLES.label,
            address=int(rows["pa"][row]),
        )

    def bounds(row: int) -> tuple[int, int]:
        return int(rows["va"][row]), int(rows["va"][row] + size[row])

    yield from context.per_mm(
        rules.PT_SHARED,
        context.views.mms["mm"][rows["owner"]],
        evidence,
        lambda row: f"a page table for {int(rows['va'][row]):#x} is shared with another process or place",
        bounds,
    )


def _holds_area(
    view: PageTablesView, owner: NDArray[np.int32], va: NDArray[np.uint64], size: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Does any area of the process lie, in whole or in part, in each range?"""
    answer: NDArray[np.bool_] = view.ranges.ends_before(view.arch, owner, va + size - np.uint64(1)) > va
    return answer


def _isolation(context: Context, view: PageTablesView) -> Iterator[Finding]:
    rows = view.isolated

    def evidence(row: int) -> Evidence:
        one = rows[row]
        return Evidence(
            what=f"the top-level entry for {int(one['va']):#x} is {int(one['user']):#x} in the user's copy and "
            f"{int(one['entry']):#x} in the kernel's",
            view=View.PAGE_TABLES.label,
            address=int(one["where"]),
            found=f"{int(one['user']):#x}",
            expected=f"{int(one['entry']):#x}",
        )

    yield from context.per_mm(
        rules.PT_ISOLATION,
        context.views.mms["mm"][rows["owner"]],
        evidence,
        lambda row: f"the two copies of the page tables (page-table isolation) disagree at {int(rows['va'][row]):#x}",
        lambda row: (int(rows["va"][row]), int(rows["va"][row]) + view.isolated_span),
    )
