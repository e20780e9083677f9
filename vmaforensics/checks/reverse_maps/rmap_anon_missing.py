"""RMAP-ANON-MISSING: VMA is not linked to the reverse map of its anonymous pages.

*Compared:* the `anon_vma_chain` of each VMA: a link to its own `anon_vma`, every link in the tree of its anon_vma,
every link naming this VMA, and no link of this VMA in a tree that its chain lacks.

*Guaranteed by:* `anon_vma_chain_link` (mm/rmap.c).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.reverse_maps.anon_links import Fault
from vmaforensics.checks.reverse_maps.compared_trees import compared_trees
from vmaforensics.checks.rule import FORKS, INDICES, Part, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reverse_maps.compared_trees import ComparedTrees

RULE = Rule(
    id="RMAP-ANON-MISSING",
    title="VMA is not linked to the reverse map of its anonymous pages",
    severity=Severity.HIGH,
    why="A VMA with anonymous pages is chained to its anon_vma and is in its tree. A VMA that is not there "
    "escapes whoever looks for the users of a page; an anon_vma pointer that was changed makes it look like "
    "another.",
    compares="the anon_vma_chain of each VMA with its anon_vma, and every link of it with the tree it should be in",
    views=(View.ANON_RMAP, *INDICES),
    transient="merges and splits take a VMA out of the reverse map for a while, under the write lock",
    by_hand=("crash: list anon_vma_chain.same_vma -H <&vma->anon_vma_chain> -s anon_vma_chain.vma,anon_vma", hand.ANON),
    steps=("vma", "anon"),
    part=Part.CAUSE,
    rank=120,
    changed_by=FORKS,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such VMAs, and what the cut left behind in the trees as its evidence.

    Where the process has a VMA that is missing from its file's i_mmap too, they are evidence of RMAP-FILE-MISSING.
    """
    for compared in context.shared(compared_trees):
        traces = compared.traces()
        shown = set(compared.trees.vmas.rmap.vmas.mm[compared.files.missing].tolist())
        for finding in _findings(compared):
            more = () if finding.mm in shown else traces.get(finding.mm, ())
            yield compared.trees.weigh(replace(finding, evidence=(*finding.evidence, *more)))


def _findings(compared: ComparedTrees) -> Iterator[Finding]:
    vmas, faults = compared.trees.vmas, compared.anon_faults

    def evidence(at: int) -> Evidence:
        where, tree = int(faults.where[at]), int(faults.tree[at])
        return Evidence(
            what=f"{vmas.text(int(faults.vma_row[at]))}: {Fault(int(faults.fault[at])).text(where, tree)}",
            view=View.ANON_RMAP.label,
            address=where,
            found=f"{tree:#x}",
        )

    def title(at: int) -> str:
        return f"{vmas.text(int(faults.vma_row[at]))} is not linked to its anonymous pages' map"

    yield from vmas.findings(RULE, faults.vma_row, evidence, title)
