"""RMAP-FILE-MISMATCH: VMA shows another file or other pages than its reverse map.

*Compared:* the `i_mmap` tree that a VMA is in with the `address_space` of its `vm_file`; its pages, from
`vm_pgoff` on, with its place in the tree and the last page recorded for its node.

*Guaranteed by:* the trees are keyed by `vm_pgoff` (mm/interval_tree.c); `vm_file` does not change while a VMA lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.reverse_maps.compared_trees import compared_trees
from vmaforensics.checks.rule import FORKS, Part, Rule, Severity
from vmaforensics.columns.lookup import first_rows
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reverse_maps.compared_trees import ComparedTrees

_MOST_NODES: Final = 4  # that contradict one VMA and are named

RULE = Rule(
    id="RMAP-FILE-MISMATCH",
    title="VMA shows another file or other pages than its reverse map",
    severity=Severity.HIGH,
    why="vm_file and vm_pgoff are what /proc and most tools print. The reverse map was built from them when the "
    "VMA was made: where they contradict it, they were changed afterwards, to pass for something else.",
    attack=("T1014", "T1564", "T1036"),
    compares="the i_mmap tree a VMA is in with the address_space of its vm_file; its pages, from vm_pgoff on, "
    "with its place in the tree and the last page recorded there",
    views=(View.FILE_RMAP, View.VMA, View.FILES),
    transient="merges and splits change vm_pgoff while the VMA is out of the tree, under the write lock",
    by_hand=("crash: struct vm_area_struct.vm_file,vm_pgoff,shared VMA", hand.I_MMAP),
    steps=("vma", "file"),
    part=Part.CAUSE,
    rank=100,
    changed_by=(*FORKS, Operation.MAP),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with VMAs of another file, and one for each with VMAs of other pages."""
    for compared in context.shared(compared_trees):
        for finding in (*_other_file(compared), *_other_pages(compared)):
            yield compared.trees.weigh(finding)


def _other_file(compared: ComparedTrees) -> Iterator[Finding]:
    """VMAs that are in the i_mmap of another file than vm_file says."""
    vmas, rows, tree = compared.trees.vmas, compared.files.foreign, compared.files.tree

    def evidence(at: int) -> Evidence:
        row = int(rows[at])
        held, own = f"{int(tree[row]):#x}", f"{int(vmas.rmap.mapping[row]):#x}"
        path = vmas.file_of(int(tree[row])) or "?"
        shows = f"its vm_file has the address_space {own}" if vmas.rmap.mapping[row] else "it has no vm_file"
        return Evidence(
            what=f"the {vmas.text(row)} is in the i_mmap tree of {held} ({path}), and {shows}",
            view=View.FILE_RMAP.label,
            address=vmas.member_address(row, "vm_file"),
            found=own,
            expected=held,
        )

    def title(at: int) -> str:
        row = int(rows[at])
        says = "not what vm_file says" if vmas.rmap.vmas.file[row] else "and its vm_file is empty"
        return f"{vmas.text(row)} maps {vmas.file_of(int(tree[row])) or 'another file'}, {says}"

    yield from vmas.findings(RULE, rows, evidence, title)


def _other_pages(compared: ComparedTrees) -> Iterator[Finding]:
    """VMAs whose pages, from vm_pgoff on, are not those that their place in a tree records."""
    vmas, nodes = compared.trees.vmas, compared.contradictions
    rows = nodes.vma_row[np.sort(first_rows(nodes.vma_row))]

    def nodes_of(at: int) -> list[tuple[bool, int]]:
        """(is it of an anon_vma tree, row of the node) for the nodes that contradict a VMA."""
        found = np.flatnonzero(nodes.vma_row == rows[at])[:_MOST_NODES]
        return list(zip(nodes.anon[found].tolist(), nodes.node_row[found].tolist(), strict=True))

    def place(anon: bool, node: int) -> str:
        trees = compared.anon_trees if anon else compared.file_trees
        how = "out of order" if trees.moved[node] else "at odds"
        return (
            f"{how} in the {trees.view.label} tree of {int(trees.nodes.tree[node]):#x}, whose node records "
            f"{int(trees.nodes.last[node]):#x} as the last page"
        )

    def evidence(at: int) -> Evidence:
        found = nodes_of(at)
        anon, node = found[0]
        trees, row = compared.anon_trees if anon else compared.file_trees, int(rows[at])
        first, last = f"{int(trees.first[node]):#x}", f"{int(trees.last[node]):#x}"
        held = " and ".join(place(anon, node) for anon, node in found)
        return Evidence(
            what=f"the {vmas.text(row)} has the pages {first} to {last}: {held}",
            view=trees.view.label,
            address=vmas.member_address(row, "vm_pgoff"),
            found=last,
            expected=f"{int(trees.nodes.last[node]):#x}",
        )

    def title(at: int) -> str:
        kind = View.ANON_RMAP if nodes_of(at)[0][0] else View.FILE_RMAP
        return f"{vmas.text(int(rows[at]))} shows other pages than its place in the {kind.label} tree"

    yield from vmas.findings(RULE, rows, evidence, title)
