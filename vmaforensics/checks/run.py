"""Runs every check, weighs what they say by the state of the locks, and joins what has one cause."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vmaforensics.checks import rules
from vmaforensics.checks.areas import check_areas
from vmaforensics.checks.context import Context
from vmaforensics.checks.counters import check_counters
from vmaforensics.checks.finding import Confidence, Evidence, Severity
from vmaforensics.checks.links import check_links
from vmaforensics.checks.maple import check_maple
from vmaforensics.checks.membership import check_membership
from vmaforensics.checks.rb import check_rbtree
from vmaforensics.checks.rmap import check_rmap
from vmaforensics.views.mms import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.tables import Views

CHECKS: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    check_membership,
    check_areas,
    check_rbtree,
    check_maple,
    check_counters,
    check_rmap,
    check_links,
)

# What a change of one area by hand leaves behind all over its address space.
_TRACES = {
    rules.MT_GAP, rules.MT_NULL, rules.MT_PIVOT, rules.MT_NODE, rules.RB_GAP, rules.RB_SHAPE,
    rules.BACKLINK, rules.COUNTER, rules.LINK, rules.ORDER,
}  # fmt: skip
# Which finding of an address space takes the traces up, in this order.
_CAUSES = (rules.UNLINKED, rules.MISSING, rules.RANGE, rules.OWNER, rules.SURPLUS)
# Page counts lag behind the index while a munmap that gave its lock back down still unmaps (5.10 to 7.x).
_LAGGING = {rules.COUNTER, rules.MISSING}


def run_checks(views: Views) -> list[Finding]:
    """All findings, most severe first; deterministic order."""
    context = Context(views)
    found = [_weigh(one) for check in CHECKS for one in check(context)]
    return sorted(_join(found), key=_order)


def _order(one: Finding) -> tuple[int, int, int, str, int]:
    return one.severity.rank, one.pid, one.start or 0, one.rule.id, one.mm


def _weigh(one: Finding) -> Finding:
    """A held lock means that somebody was at work: what was seen may be half of a change."""
    busy = one.lock == Lock.WRITE.text or (one.lock == Lock.READ.text and one.rule in _LAGGING)
    if not busy or one.severity.rank >= Severity.LOW.rank:
        return one
    note = Evidence(what=f"the mmap lock was {one.lock}: the map was being changed", view="lock", address=one.mm)
    return replace(
        one, severity=Severity.LOW, confidence=Confidence.LOW, evidence=(*one.evidence, note)
    )


def _join(found: Iterable[Finding]) -> Iterator[Finding]:
    """Add the traces in an address space to the finding that names their cause, if there is one."""
    by_mm: dict[int, list[Finding]] = {}
    for one in found:
        by_mm.setdefault(one.mm, []).append(one)
    for mine in by_mm.values():
        causes = [one for rule in _CAUSES for one in mine if one.rule is rule]
        if not causes or mine[0].mm == 0:
            yield from mine
            continue
        first = causes[0]
        # An area that one index lacks makes the counts of the others look wrong too.
        follow = _TRACES | {rules.MISSING, rules.SURPLUS} if first.rule is rules.UNLINKED else _TRACES
        traces = [one for one in mine if one.rule in follow]
        extra = tuple(item for one in traces for item in one.evidence)
        known = set(first.evidence)
        joined = (*first.evidence, *(item for item in extra if item not in known))
        yield replace(first, evidence=joined)
        yield from (one for one in mine if one is not first and one.rule not in follow)
