"""Runs every check, weighs what they say by what tasks were doing and by the locks, and joins what has one cause."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from vmaforensics.checks.bounds import order
from vmaforensics.checks.finding import Confidence, Severity
from vmaforensics.checks.in_flight import InFlight
from vmaforensics.checks.registry import rule_modules
from vmaforensics.checks.rule import Part
from vmaforensics.checks.torn import weigh_live

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.registry import RuleModule

log = logging.getLogger(__name__)


def run_checks(context: Context) -> list[Finding]:
    """All findings, most severe first; deterministic order. What a rule could not do is on ``context.failures``."""
    found: list[Finding] = []
    in_flight = InFlight(context.views)
    for _, modules in itertools.groupby(rule_modules(), key=lambda module: module.chapter):
        for module in modules:
            found += _findings(module, context, in_flight)
        context.release()  # rules of one chapter share most
    weighed = weigh_live(context, found)
    if context.views.untyped:
        weighed = [replace(finding, severity=Severity.INFO, confidence=Confidence.LOW) for finding in weighed]
    return sorted(join(weighed), key=order)


def _findings(module: RuleModule, context: Context, in_flight: InFlight) -> list[Finding]:
    """What one rule finds, up to where it goes wrong if it does."""
    found: list[Finding] = []
    try:
        found.extend(weigh(finding, in_flight) for finding in module.check(context))
    except Exception as error:  # a bug of ours must not cost the other rules
        log.debug("rule %s", module.rule.id, exc_info=True)
        kind = type(error).__name__
        context.failures.append(f"internal error in the rule {module.rule.id} ({kind}: {error}); please report it")
    return found


def weigh(finding: Finding, in_flight: InFlight) -> Finding:
    """What was being changed may have been seen half changed: by an operation that was under way, or by a held lock.

    Not what is proven not to have been changed.
    """
    if finding.proven:
        return finding
    return weigh_by_lock(in_flight.weigh(finding), in_flight)


def weigh_by_lock(finding: Finding, in_flight: InFlight) -> Finding:
    """A held lock means that the map was being changed: what was seen may be half of a change.

    Findings of severity low and info stay as they are.
    """
    excused = finding.lock in [lock.text for lock in finding.rule.excused_by]
    if not excused or finding.severity.rank >= Severity.LOW.rank:
        return finding
    note = in_flight.lock_note(finding)
    if note is None:
        return finding
    evidence = (*finding.evidence, note)
    return replace(finding, severity=Severity.LOW, confidence=Confidence.LOW, evidence=evidence)


def join(found: Iterable[Finding]) -> Iterator[Finding]:
    """Join what has one cause: findings of an address space whose ranges overlap, and the traces that a change
    leaves all over it. The cause of the lowest rank takes up the others' evidence; see :class:`Part`. What comes from
    an operation that was under way stands alone, and what a held lock excuses takes up nothing that it does not."""
    by_mm: dict[int, list[Finding]] = {}
    for finding in sorted(found, key=lambda finding: finding.rule.rank):
        if finding.in_flight:
            yield finding
            continue
        by_mm.setdefault(finding.mm, []).append(finding)
    for mm, findings in by_mm.items():
        causes: list[Finding] = []
        for finding in _of_part(findings, Part.CAUSE) if mm else ():
            at = next((at for at, cause in _fit_for(causes, finding) if _same_cause(cause, finding)), None)
            if at is None:
                causes.append(finding)
            else:
                causes[at] = _absorb(causes[at], finding)
        if not causes:
            yield from findings
            continue
        for trace in _of_part(findings, Part.TRACE):
            fit = _fit_for(causes, trace)
            if not fit:
                yield trace
                continue
            near = next((at for at, cause in fit if _overlap(cause, trace)), fit[0][0])
            causes[near] = _absorb(causes[near], trace)
        for finding in _of_part(findings, Part.LEFT_BEHIND):
            hiding = next((at for at, cause in _fit_for(causes, finding) if cause.rule.hides), None)
            if hiding is None:
                yield finding
            else:
                causes[hiding] = _absorb(causes[hiding], finding)
        yield from _of_part(findings, Part.ALONE)
        yield from causes


def _fit_for(causes: list[Finding], finding: Finding) -> list[tuple[int, Finding]]:
    """The causes, and where they stand, that may take up a finding: one that is excused only what is so too."""
    return [(at, cause) for at, cause in enumerate(causes) if _is_excused(finding) or not _is_excused(cause)]


def _is_excused(finding: Finding) -> bool:
    """Has what was under way made it less than the rule says?"""
    return finding.severity.rank >= Severity.LOW.rank > finding.rule.severity.rank


def _of_part(findings: Iterable[Finding], part: Part) -> list[Finding]:
    return [finding for finding in findings if finding.rule.part is part]


def _overlap(finding: Finding, other: Finding) -> bool:
    if finding.start is None or finding.end is None or other.start is None or other.end is None:
        return False
    return finding.start < other.end and other.start < finding.end


def _same_cause(cause: Finding, other: Finding) -> bool:
    """Are both about one change? Counts that are off name no range; what names one explains them."""
    if other.rule.count and cause.rule.explains_counts:
        return True  # a VMA that one index lacks makes the counts of the others look wrong too
    return _overlap(cause, other) or (cause.rule.count and cause.start is None)


def _absorb(cause: Finding, other: Finding) -> Finding:
    known = set(cause.evidence)
    joined = (*cause.evidence, *(item for item in other.evidence if item not in known))
    worse = cause.severity if cause.severity.rank <= other.severity.rank else other.severity
    if cause.start is None and other.start is not None and other.rule.part is Part.CAUSE:
        title = f"{cause.title}: {other.title}"
        return replace(cause, evidence=joined, severity=worse, start=other.start, end=other.end, title=title)
    return replace(cause, evidence=joined, severity=worse)
