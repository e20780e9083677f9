"""RMAP-FILE-MISSING: VMA of a file is not in the file's i_mmap.

*Compared:* every VMA with a `vm_file` with the `i_mmap` tree of that file's `address_space`. Only where the tree was
read whole.

A VMA that has pages in page tables was linked before: an mmap or fork under way excuses nothing there.

*Guaranteed by:* as RMAP-FILE-HIDDEN.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.held import HELD, held
from vmaforensics.checks.reverse_maps.compared_trees import compared_trees
from vmaforensics.checks.reverse_maps.neighbours import NEIGHBOURS, passed_by
from vmaforensics.checks.rule import FORKS, INDICES, Part, Rule, Severity
from vmaforensics.checks.unchanged import unchanged
from vmaforensics.columns.lookup import difference, distinct, first_rows, rows_of, values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.pages.ptes import place_keys
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reverse_maps.compared_trees import ComparedTrees
    from vmaforensics.checks.reverse_maps.rmap_vmas import RmapVmas
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.vmas.vmas import Vmas

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
            lost = _lost(context, compared)
            yield from lost.findings
            missing = difference(missing, lost.rows)
        for finding in _findings(compared, missing):
            evidence = (*finding.evidence, *traces.get(finding.mm, ()))
            rows = missing[compared.trees.vmas.rmap.vmas.mm[missing] == np.uint64(finding.mm)]
            changed_by = () if _in_use(context, compared, rows) else None
            yield compared.trees.weigh(replace(finding, evidence=evidence, changed_by=changed_by))


def _same(context: Context, compared: ComparedTrees) -> Bools:
    """Which VMAs that were cut off were the same when the node was read that they name as their parent?

    What its process maps and unmaps all the time is no such VMA: the tree is balanced about it while it is read, and
    that writes to its node, which no number counts (__rb_insert, lib/rbtree.c).
    """
    known, clocks, files = context.shared(held), context.acquisition.clocks, compared.files
    if known is None or clocks is None:
        return np.zeros(len(files.cut_off), np.bool_)
    vma, word = compared.trees.vmas.rmap.vmas.vma[files.cut_off], clocks.places.each(files.cut_at)
    return known.through(vma, word) & known.old(vma, word)


class _Lost(NamedTuple):
    """VMAs that no tree leads to though something says where they belong."""

    rows: I64
    findings: list[Finding]


def _lost(context: Context, compared: ComparedTrees) -> _Lost:
    """Those of an image that was taken while the machine ran: what is certain first, each VMA once.

    A VMA that a rotation has just gone past is still led to by what it names as its parent, or its child back to it.
    """
    files, trees = compared.files, compared.trees
    rmap, vmas = trees.vmas.rmap, trees.vmas.rmap.vmas
    attached = trees.vmas.judged & ~vmas.detached & (vmas.refcnt != 0)
    mapping = rows_of(rmap.mappings.mapping, rmap.mapping)
    lost = attached & (rmap.mapping != 0) & (vmas.file != 0) & (files.tree == 0) & ~rmap.answered
    lost &= values_at(rmap.mappings.ok & (rmap.mappings.held == trees.held), mapping)
    between = _between(context, compared, np.flatnonzero(lost), attached)
    same = _same(context, compared)
    cut = _Witness.of_cut(files.cut_off, files.cut_at)
    seen = np.zeros(0, np.int64)
    found: list[Finding] = []
    for witness, proven in ((between, NEIGHBOURS), (cut.take(same), HELD), (cut.take(~same), "")):
        fresh = witness.take(~np.isin(witness.rows, seen))
        seen = distinct(seen, fresh.rows)
        found += [replace(finding, proven=proven, settled=not proven) for finding in _witnessed(compared, fresh)]
    return _Lost(seen, found)


class _Witness(NamedTuple):
    """VMAs, rows of ``RmapView.vmas``, and for each a node that says that the tree does not lead to it."""

    rows: I64
    at: U64  # address of the node, or the VMA that it is in
    node: I64  # row of that VMA; -1 where its address is enough
    parent: I64  # row of the VMA that ``node`` names as its parent; -1 there too

    @classmethod
    def of_cut(cls, rows: I64, at: U64) -> _Witness:
        """Nodes without the child that names them."""
        none = np.full(len(rows), -1, np.int64)
        return cls(rows, at, none, none)

    @classmethod
    def of(cls, vmas: Vmas, rows: I64, node: I64, parent: I64) -> _Witness:
        """By rows of VMAs, the first for each."""
        first = first_rows(rows)
        return cls(rows[first], vmas.vma[node[first]], node[first], parent[first])

    def take(self, which: Bools) -> _Witness:
        """Some of them."""
        return _Witness(self.rows[which], self.at[which], self.node[which], self.parent[which])

    def text(self, vmas: RmapVmas, row: int) -> str:
        """What one of them says, in words."""
        node, parent = int(self.node[row]), int(self.parent[row])
        if node < 0:
            return f"the node {int(self.at[row]):#x} that it names as its parent is in the tree, and has no such child"
        return f"the {vmas.text(node)} names the {vmas.text(parent)} as its parent and has no child there"


def _between(context: Context, compared: ComparedTrees, lost: I64, attached: Bools) -> _Witness:
    """VMAs that two neighbours leave no place for, and that surely were there at that moment."""
    known, clocks, rmap = context.shared(unchanged), context.acquisition.clocks, compared.trees.vmas.rmap
    vmas = rmap.vmas
    if known is None or clocks is None:
        return _Witness.of_cut(np.zeros(0, np.int64), np.zeros(0, np.uint64))
    found = passed_by(rmap, lost, clocks.places, context.views.vma_size)
    found = found.take(attached[found.node] & attached[found.parent])
    word = clocks.places.each(vmas.vma[found.node])
    same = np.ones(len(found.rows), np.bool_)
    for rows in found:
        same &= known.through(vmas.take(rows), word)
    return _Witness.of(vmas, *found.take(same))


def _witnessed(compared: ComparedTrees, found: _Witness) -> Iterator[Finding]:
    """Findings of those; which node says so may differ from one image to the next, and stands apart."""
    vmas = compared.trees.vmas

    def evidence(at: int) -> Evidence:
        row = int(found.rows[at])
        mapping = f"{int(vmas.rmap.mapping[row]):#x}"
        return Evidence(
            what=f"the i_mmap tree of its file's address_space {mapping} does not lead to the {vmas.text(row)}",
            view=View.FILE_RMAP.label,
            address=int(vmas.rmap.vmas.vma[row]),
            expected=mapping,
        )

    for finding in vmas.findings(RULE, found.rows, evidence, lambda at: _title(vmas, int(found.rows[at]))):
        mine = np.flatnonzero(vmas.rmap.vmas.mm[found.rows] == np.uint64(finding.mm))[:MOST]
        nodes = [
            Evidence(what=found.text(vmas, row), view=View.FILE_RMAP.label, address=int(found.at[row]))
            for row in mine.tolist()
        ]
        yield replace(finding, evidence=(*finding.evidence, *nodes))


def _title(vmas: RmapVmas, row: int) -> str:
    return f"{vmas.text(row)} has been taken out of its file's i_mmap"


def _in_use(context: Context, compared: ComparedTrees, rows: I64) -> bool:
    """Do page tables hold pages of some of these VMAs? What is being mapped or copied is linked before it has any."""
    view, vmas = context.views.page_tables, compared.trees.vmas.rmap.vmas
    if view is None:
        return False
    mm_row = context.views.mm_rows(vmas.mm[rows])
    arch = context.views.arch
    first, behind = (view.entries.below(place_keys(arch, mm_row, bound[rows])) for bound in (vmas.start, vmas.end))
    return bool(((mm_row >= 0) & (behind > first)).any())


def _findings(compared: ComparedTrees, rows: I64) -> Iterator[Finding]:
    vmas = compared.trees.vmas

    def evidence(at: int) -> Evidence:
        row = int(rows[at])
        mapping = f"{int(vmas.rmap.mapping[row]):#x}"
        return Evidence(
            what=f"the i_mmap tree of its file's address_space {mapping} does not hold the {vmas.text(row)}",
            view=View.FILE_RMAP.label,
            address=int(vmas.rmap.vmas.vma[row]),
            expected=mapping,
        )

    yield from vmas.findings(RULE, rows, evidence, lambda at: _title(vmas, int(rows[at])))
