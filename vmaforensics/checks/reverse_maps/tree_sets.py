"""The trees of the reverse maps in two sets: those whose lock was free, and those that were being changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Confidence, Evidence, Severity

if TYPE_CHECKING:
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reverse_maps.rmap_vmas import RmapVmas
    from vmaforensics.columns.types import Bools


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeSet:
    """The trees that are judged together. Nothing is said to be missing from a tree that was not read whole."""

    vmas: RmapVmas
    held: bool  # the lock of each was write-held
    mapping_whole: Bools  # per row of the mappings: its i_mmap is of this set and was read whole
    anon_vma_whole: Bools  # per row of the anon_vmas

    def weigh(self, finding: Finding) -> Finding:
        """What is wrong with a tree that was being changed weighs little."""
        if not self.held:
            return finding
        note = Evidence(what="the lock of the tree was write-held: it was being changed", view="lock", address=0)
        return replace(finding, severity=Severity.LOW, confidence=Confidence.LOW, evidence=(*finding.evidence, note))


def tree_sets(vmas: RmapVmas) -> tuple[TreeSet, ...]:
    """The trees whose lock was free; then, if there are any, those whose lock was held."""
    mappings, anon_vmas = vmas.rmap.mappings, vmas.rmap.anon_vmas
    some_held = bool(mappings.held.any() or anon_vmas.held.any())
    return tuple(
        TreeSet(
            vmas=vmas,
            held=held,
            mapping_whole=mappings.whole & (mappings.held == held),
            anon_vma_whole=anon_vmas.whole & (anon_vmas.held == held),
        )
        for held in ((False, True) if some_held else (False,))
    )
