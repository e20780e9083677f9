"""How many findings are told one by one: what can be planted a thousand times must not bury what was hidden once.

A rule has at most :data:`MOST` findings of its own, one that shows hidden memory :data:`MOST_HIDING`; fewer, where
many rules have as many. Those come first that are most severe, and of every address space one before the second of
any. The others of the rule are one finding, with how many they are, and each of them in its evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Evidence, Finding
from vmaforensics.words.amounts import counted, plural
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST = 20
MOST_HIDING = 60
_ALL = 150  # findings of all rules
_LISTED = 4096  # that evidence lists, of those told together
_NAMED = 8  # pids in a title


def order(finding: Finding) -> tuple[int, bool, int, int, str, int]:
    """The place of a finding among others: the most severe first, hidden memory before other contradictions, then by
    process."""
    return (
        finding.severity.rank,
        not finding.rule.hides,
        finding.pid,
        finding.start or 0,
        finding.rule.id,
        finding.mm,
    )


def bounded(findings: Iterable[Finding]) -> list[Finding]:
    """``findings``, of each rule no more than can be read; their order is that of :func:`order`."""
    by_rule: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=order):
        by_rule.setdefault(finding.rule.id, []).append(finding)
    share = 1
    while share < MOST and sum(min(len(found), _limit(found, share) + 1) for found in by_rule.values()) > _ALL:
        share += 1
    kept: list[Finding] = []
    together: list[Finding] = []
    for found in by_rule.values():
        limit = _limit(found, share)
        if len(found) <= limit + 1:
            kept += found
            continue
        urgent = _urgent(found)
        kept += urgent[:limit]
        together.append(_together(urgent[limit:]))
    # Beside others of its severity, what stands for many comes last: each of them ranks behind those told.
    together.sort(key=order)
    return sorted([*sorted(kept, key=order), *together], key=lambda finding: finding.severity.rank)


def _limit(found: Sequence[Finding], share: int) -> int:
    return max((MOST_HIDING if found[0].rule.hides else MOST) // share, 1)


def _urgent(found: Sequence[Finding]) -> list[Finding]:
    """The most severe first; then the first of every address space, the second, and so on."""
    seen: dict[int, int] = {}
    places: list[tuple[int, int, int]] = []
    for finding in found:
        places.append((finding.severity.rank, seen.get(finding.mm, 0), len(places)))
        seen[finding.mm] = seen.get(finding.mm, 0) + 1
    return [found[place] for _, _, place in sorted(places)]


def _together(found: Sequence[Finding]) -> Finding:
    """One finding for all of ``found``, which are of one rule."""
    rule = found[0].rule
    spaces = len({finding.mm for finding in found})
    pids = sorted({finding.pid for finding in found if finding.pid})
    named = ", ".join(map(str, pids[:_NAMED])) + (f" and {len(pids) - _NAMED} more" if len(pids) > _NAMED else "")
    whose = f"; {plural(len(pids), 'pid')} {named}" if pids else ""
    evidence = [_line(finding) for finding in found[:_LISTED]]
    if len(found) > _LISTED:
        evidence.append(Evidence(what=f"and {len(found) - _LISTED} more like these", view="", address=0))
    return Finding(
        rule=rule,
        severity=found[0].severity,
        confidence=found[0].confidence,
        mm=0,
        pid=0,
        comm=b"",
        title=f"{len(found)} more like these, in {counted(spaces, 'address space')}{whose}",
        evidence=tuple(evidence),
        benign=rule.benign,
    )


def _line(finding: Finding) -> Evidence:
    """A finding in a line."""
    where = "" if finding.start is None else f" at {finding.start:#x}-{finding.end or finding.start:#x}"
    view = finding.evidence[0].view if finding.evidence else ""
    what = f"{finding.severity.value}: pid {finding.pid} ({decoded(finding.comm)}){where}: {finding.title}"
    return Evidence(what=what, view=view, address=finding.mm)
