"""RMAP-FILE-MISSING: VMA of a file is not in the file's i_mmap.

*Compared:* every VMA with a `vm_file` with the `i_mmap` tree of that file's `address_space`. Only where the tree was
read whole.

A VMA that has pages in page tables was linked before: an mmap or fork under way excuses nothing there.

*Guaranteed by:* as RMAP-FILE-HIDDEN.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.held import HELD, held
from vmaforensics.checks.reverse_maps.compared_trees import compared_trees
from vmaforensics.checks.rule import FORKS, INDICES, Part, Rule, Severity
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.pages.ptes import place_keys
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reverse_maps.compared_trees import ComparedTrees
    from vmaforensics.columns.types import I64, U64, Bools

RULE = Rule(
    id="RMAP-FILE-MISSING",
    title="VMA of a file is not in the file's i_mmap",
    severity=Severity.HIGH,
    why="The kernel links every VMA that has a file into i_mmap, to find it when pages are written back, "
    "truncated or reclaimed. A VMA that is not there escapes whoever looks for the users of the file.",
    compares="every VMA with a vm_file with the i_mmap tree of that file's address_space",
    views=(View.FILE_RMAP, *INDICES, View.FILES),
    transient="merges and splits take a VMA out of the reverse map for a while, under the write lock",
    by_hand=(hand.I_MMAP,),
    steps=("vma", "file"),
    part=Part.CAUSE,
    rank=110,
    changed_by=(*FORKS, Operation.MAP),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such VMAs, and what the cut left behind in the trees as its evidence.

    In an image that was taken while the machine ran, trees are torn. Those VMAs are told apart of which the way that
    should lead to them can be followed to its end.
    """
    for compared in context.shared(compared_trees):
        traces, files = compared.traces(), compared.files
        missing = files.missing
        if context.acquisition.live:
            same = _same(context, compared)
            for finding in _findings(compared, files.cut_off[same], files.cut_at[same]):
                yield replace(finding, proven=HELD)
            for finding in _findings(compared, files.cut_off[~same], files.cut_at[~same]):
                yield replace(finding, settled=True)
            missing = np.setdiff1d(missing, files.cut_off)
        for finding in _findings(compared, missing):
            evidence = (*finding.evidence, *traces.get(finding.mm, ()))
            rows = missing[compared.trees.vmas.rmap.vmas.mm[missing] == np.uint64(finding.mm)]
            changed_by = () if _in_use(context, compared, rows) else None
            yield compared.trees.weigh(replace(finding, evidence=evidence, changed_by=changed_by))


def _same(context: Context, compared: ComparedTrees) -> Bools:
    """Which VMAs that were cut off were the same when the node was read that they name as their parent?"""
    known, clocks, files = context.shared(held), context.acquisition.clocks, compared.files
    if known is None or clocks is None:
        return np.zeros(len(files.cut_off), np.bool_)
    return known.through(compared.trees.vmas.rmap.vmas.vma[files.cut_off], clocks.places.each(files.cut_at))


def _in_use(context: Context, compared: ComparedTrees, rows: I64) -> bool:
    """Do page tables hold pages of some of these VMAs? What is being mapped or copied is linked before it has any."""
    view, vmas = context.views.page_tables, compared.trees.vmas.rmap.vmas
    if view is None:
        return False
    mm_row = context.views.mm_rows(vmas.mm[rows])
    arch = context.views.arch
    first, behind = (view.entries.below(place_keys(arch, mm_row, bound[rows])) for bound in (vmas.start, vmas.end))
    return bool(((mm_row >= 0) & (behind > first)).any())


def _findings(compared: ComparedTrees, rows: I64, cut_at: U64 | None = None) -> Iterator[Finding]:
    vmas = compared.trees.vmas

    def evidence(at: int) -> Evidence:
        row = int(rows[at])
        mapping = f"{int(vmas.rmap.mapping[row]):#x}"
        what = f"the i_mmap tree of its file's address_space {mapping} does not hold the {vmas.text(row)}"
        if cut_at is not None:
            what += f"; the node {int(cut_at[at]):#x} that it names as its parent is in the tree, and has no such child"
        return Evidence(
            what=what,
            view=View.FILE_RMAP.label,
            address=int(vmas.rmap.vmas.vma[row]) if cut_at is None else int(cut_at[at]),
            expected=mapping,
        )

    def title(at: int) -> str:
        return f"{vmas.text(int(rows[at]))} has been taken out of its file's i_mmap"

    yield from vmas.findings(RULE, rows, evidence, title)
