"""PT-KERNEL-HALF: process has a kernel half of its own.

*Compared:* the upper half of each process's top-level page table with that of the kernel's own (`init_top_pgt`), entry
for entry; with page-table isolation that of the user's copy too. The accessed bit aside, and entries that are empty in
the process. What is under an entry of the process alone is walked: the evidence names each page that the kernel does
not map there, what it allows, and what it looks like. With isolation a process may have a local descriptor table there;
of that, only what user mode can use is told. Where most processes differ in the same way, it is the kernel's table that
was changed.

*Guaranteed by:* `pgd_ctor` (arch/x86/mm/pgtable.c) copies the kernel half into each new table, and `sync_global_pgds`
(arch/x86/mm/init_64.c) writes what is added later into all of them.

*In images of running machines:* all words lie in one page that has most of the kernel's entries, so it is a top-level
table, and nothing of that half changes while memory is not plugged in or out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_USER
from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.kernel_leaves import entries_text, leaf_bounds, leaf_evidence, leaf_text
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.columns.lookup import distinct, sort_order
from vmaforensics.columns.runs import begins_run, run_numbers
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.arch.page_tables import KernelEntries
    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64
    from vmaforensics.views.pages.kernel_half import KernelHalfView

RULE = Rule(
    id="PT-KERNEL-HALF",
    title="process has a kernel half of its own",
    severity=Severity.HIGH,
    why="The upper half of the address space is the kernel's, and the same in every process. Memory that one process "
    "has there is in no VMA, in no count, and in no walk of user addresses.",
    benign=(SMEAR, "memory that was being plugged in or out", BUG),
    compares="the kernel half of each top-level page table with the kernel's own, and what is under other entries",
    views=(View.PAGE_TABLES,),
    transient="memory hotplug: sync_global_pgds goes through all tables",
    by_hand=("crash: rd -64 <mm->pgd + 2048> 256", "crash: rd -64 init_top_pgt 512", "crash: vtop -c PID ADDRESS"),
    steps=("tables", "word"),
    rank=205,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process; one of the kernel's table where most processes differ from it in the same way."""
    view = context.views.kernel_half
    if view is None:
        return
    entries = view.entries
    usable = distinct(view.leaves.owner[(view.leaves.allow & ALLOW_USER) != 0])
    # An entry that a process has not got yet hides nothing; up to 5.7 vmalloc_fault copied those of vmalloc late.
    wrong = np.flatnonzero((~entries.own & (entries.entry != 0)) | np.isin(np.arange(len(entries)), usable))
    common = _common(entries.take(wrong), len(view.mm))
    settled = view.settled()
    for owner in distinct(entries.owner[wrong[~common]]).tolist():
        rows = wrong[~common & (entries.owner[wrong] == owner)]
        finding = _finding(context, view, rows, int(view.mm[owner]))
        yield replace(finding, at_once=bool(settled[rows].all()), pid=finding.pid or int(view.pid[owner]))
    if common.any():
        _, first = np.unique(
            entries.where[wrong[common]] & np.uint64(context.views.arch.page_size - 1), return_index=True
        )
        yield _finding(context, view, wrong[common][first], 0)


def _common(entries: KernelEntries, tables: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which entries most of the tables have, at the same place and with the same value."""
    order = sort_order(entries.slot, entries.user_copy, entries.entry)
    begins = begins_run(entries.slot[order], entries.user_copy[order], entries.entry[order])
    numbers = run_numbers(begins)
    many = np.zeros(len(entries), np.bool_)
    many[order] = (np.bincount(numbers)[numbers] * 2 > tables) if len(order) else False
    return many & (tables > 2)


def _finding(context: Context, view: KernelHalfView, rows: I64, mm: int) -> Finding:
    """What is wrong with the entries ``rows``, which are of the address space ``mm``; 0 for all."""
    entries = view.entries
    under = np.isin(view.leaves.owner, rows)
    leaves = view.leaves.take(under)
    contents = [text for text, mine in zip(view.contents, under.tolist(), strict=False) if mine]
    evidence = [_entry(view, row) for row in rows[:MOST].tolist()]
    if len(rows) > MOST:
        evidence.append(Evidence(what=f"and {len(rows) - MOST} more like these", view="", address=0))
    first = int(entries.va[rows[0]])
    whose = "the process has alone" if mm else "most processes have and the kernel's own table has not"
    title = f"{entries_text(len(rows))} of the kernel half that {whose}, first for {first:#x}"
    if len(leaves):
        title += f": {leaf_text(context, leaves)}"
        evidence += leaf_evidence(context, leaves, contents)
    bounds = leaf_bounds(context, leaves) or (first, int(entries.va[rows[-1]]) + view.span)
    return context.finding(RULE, mm, title, evidence, bounds=bounds)


def _entry(view: KernelHalfView, row: int) -> Evidence:
    entries = view.entries
    entry, expected = f"{int(entries.entry[row]):#x}", f"{int(entries.expected[row]):#x}"
    copy = " of the copy that user mode runs on" if entries.user_copy[row] else ""
    return Evidence(
        what=f"top-level entry {int(entries.slot[row])}{copy}, for {int(entries.va[row]):#x}, is {entry}; the kernel's "
        f"own is {expected}",
        view=View.PAGE_TABLES.label,
        address=int(entries.where[row]),
        found=entry,
        expected=expected,
    )
