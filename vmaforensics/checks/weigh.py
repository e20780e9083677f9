"""Runs every check, weighs what they say by the state of the locks, and joins what has one cause."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vmaforensics.checks import rules
from vmaforensics.checks.anchors.anchors import check_anchors
from vmaforensics.checks.descriptors.descriptors import check_handles
from vmaforensics.checks.finding import Confidence, Evidence, Severity
from vmaforensics.checks.indices.links import check_links
from vmaforensics.checks.indices.maple import check_maple
from vmaforensics.checks.indices.membership import check_membership
from vmaforensics.checks.indices.rbtree import check_rbtree
from vmaforensics.checks.pages.map_counts import check_residents
from vmaforensics.checks.pages.page_tables import check_page_tables
from vmaforensics.checks.pages.text_pages import check_text
from vmaforensics.checks.processes.existence import check_existence
from vmaforensics.checks.reverse_maps.reverse_maps import check_rmap
from vmaforensics.checks.slab.slab import check_slab
from vmaforensics.checks.vmas.counters import check_counters
from vmaforensics.checks.vmas.executable import check_executable
from vmaforensics.checks.vmas.vmas import check_areas
from vmaforensics.views.processes.mms import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding, Rule

CHECKS: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    check_membership,
    check_areas,
    check_rbtree,
    check_maple,
    check_counters,
    check_rmap,
    check_page_tables,
    check_residents,
    check_text,
    check_links,
    check_slab,
    check_existence,
    check_anchors,
    check_handles,
    check_executable,
)

# What a change of one area by hand leaves behind all over its address space.
_TRACES = {
    rules.MT_GAP,
    rules.MT_NULL,
    rules.MT_PIVOT,
    rules.MT_NODE,
    rules.RB_GAP,
    rules.RB_SHAPE,
    rules.BACKLINK,
    rules.COUNTER,
    rules.LINK,
    rules.ORDER,
    rules.MT_ROOT,
    rules.RMAP_TREE,
    rules.RSS,
    rules.PGTABLES,
}
# Which finding of an address space takes the traces up, in this order.
_CAUSES = (
    rules.UNLINKED,
    rules.MISSING,
    rules.RANGE,
    rules.OWNER,
    rules.SURPLUS,
    rules.SLAB_ORPHAN,
    rules.SLAB_STATE,
    rules.RMAP_FILE_HIDDEN,
    rules.RMAP_ANON_HIDDEN,
    rules.RMAP_FILE_MISMATCH,
    rules.RMAP_FILE_MISSING,
    rules.RMAP_ANON_MISSING,
    rules.PTE_ORPHAN,
    rules.PTE_KERNEL,
    rules.PTE_REMAP,
    rules.TEXT_MODIFIED,
    rules.PTE_PERM,
    rules.PROT,
    rules.PT_SHARED,
    rules.PT_ISOLATION,
    rules.ERASED,
    rules.SHM_ATTACH,
    rules.THREAD_OUTSIDE,
)
# What leaves addresses behind that lie in no area any more.
_HIDING = (
    rules.UNLINKED,
    rules.MISSING,
    rules.SLAB_ORPHAN,
    rules.RMAP_FILE_HIDDEN,
    rules.RMAP_ANON_HIDDEN,
    rules.PTE_ORPHAN,
)
_LEFT_BEHIND = (rules.ANCHOR_OUTSIDE, rules.HANDLER_OUTSIDE)
# Page counts lag behind the index while a munmap that gave its lock back down still unmaps (5.10 to 7.x).
# In 5.10 a stack grows under the read lock too.
_LAGGING = {
    rules.COUNTER,
    rules.MISSING,
    rules.RMAP_FILE_HIDDEN,
    rules.RMAP_ANON_HIDDEN,
    rules.SLAB_ORPHAN,
    rules.PTE_ORPHAN,
    rules.RSS,
    rules.PGTABLES,
    rules.ERASED,
    rules.RB_GAP,
}


def run_checks(context: Context) -> list[Finding]:
    """All findings, most severe first; deterministic order."""
    found = [_weigh(one) for check in CHECKS for one in check(context)]
    return sorted(_join(found), key=_order)


def _order(one: Finding) -> tuple[int, int, int, str, int]:
    return one.severity.rank, one.pid, one.start or 0, one.rule.id, one.mm


def lags(rule: Rule) -> bool:
    """Do the records that ``rule`` compares follow each other under a mere read lock in some operation?"""
    return rule in _LAGGING


def _weigh(one: Finding) -> Finding:
    """A held lock means that somebody was at work: what was seen may be half of a change."""
    busy = one.lock == Lock.WRITE.text or (one.lock == Lock.READ.text and lags(one.rule))
    if not busy or one.severity.rank >= Severity.LOW.rank:
        return one
    note = Evidence(what=f"the mmap lock was {one.lock}: the map was being changed", view="lock", address=one.mm)
    return replace(one, severity=Severity.LOW, confidence=Confidence.LOW, evidence=(*one.evidence, note))


def _join(found: Iterable[Finding]) -> Iterator[Finding]:
    """Join what has one cause: findings of an address space whose ranges overlap, and the traces that a change
    leaves all over it. The finding whose rule comes first in ``_CAUSES`` takes up the others' evidence."""
    by_mm: dict[int, list[Finding]] = {}
    for one in found:
        by_mm.setdefault(one.mm, []).append(one)
    for mm, mine in by_mm.items():
        ranked = sorted((one for one in mine if one.rule in _CAUSES), key=lambda one: _CAUSES.index(one.rule))
        if mm == 0 or not ranked:
            yield from mine
            continue
        causes: list[Finding] = []
        for one in ranked:
            at = next((at for at, cause in enumerate(causes) if _same_cause(cause, one)), None)
            if at is None:
                causes.append(one)
            else:
                causes[at] = _absorb(causes[at], one)
        for trace in (one for one in mine if one.rule in _TRACES):
            near = next((at for at, cause in enumerate(causes) if _overlap(cause, trace)), 0)
            causes[near] = _absorb(causes[near], trace)
        rest = [one for one in mine if one.rule not in _CAUSES and one.rule not in _TRACES]
        hiding = next((at for at, cause in enumerate(causes) if cause.rule in _HIDING), None)
        for one in rest:
            if hiding is not None and one.rule in _LEFT_BEHIND:
                causes[hiding] = _absorb(causes[hiding], one)
            else:
                yield one
        yield from causes


def _overlap(one: Finding, other: Finding) -> bool:
    if one.start is None or one.end is None or other.start is None or other.end is None:
        return False
    return one.start < other.end and other.start < one.end


def _same_cause(cause: Finding, other: Finding) -> bool:
    """Do both speak of one change? Counts that are off name no range; what names one explains them."""
    counts = (rules.MISSING, rules.SURPLUS)
    if other.rule in counts and cause.rule is rules.UNLINKED:
        return True  # an area that one index lacks makes the counts of the others look wrong too
    return _overlap(cause, other) or (cause.rule in counts and cause.start is None)


def _absorb(cause: Finding, other: Finding) -> Finding:
    known = set(cause.evidence)
    joined = (*cause.evidence, *(item for item in other.evidence if item not in known))
    worse = cause.severity if cause.severity.rank <= other.severity.rank else other.severity
    if cause.start is None and other.start is not None and other.rule in _CAUSES:
        title = f"{cause.title}: {other.title}"
        return replace(cause, evidence=joined, severity=worse, start=other.start, end=other.end, title=title)
    return replace(cause, evidence=joined, severity=worse)
