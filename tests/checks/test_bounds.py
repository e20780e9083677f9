"""How many findings are told one by one: a pattern that is planted often buries nothing."""

from __future__ import annotations

from vmaforensics.checks.bounds import MOST, MOST_HIDING, bounded
from vmaforensics.checks.finding import Confidence, Evidence, Finding, Severity
from vmaforensics.checks.registry import all_rules, rule


def _finding(rule_id: str, mm: int, *, severity: Severity = Severity.HIGH, start: int | None = None) -> Finding:
    return Finding(
        rule=rule(rule_id),
        severity=severity,
        confidence=Confidence.HIGH,
        mm=mm,
        pid=mm,
        comm=b"bash",
        title=f"{rule_id} of {mm}",
        evidence=(Evidence(what="a record", view="VMA", address=mm),),
        start=start,
        end=None if start is None else start + 0x1000,
    )


def test_few_findings_stay_as_they_are() -> None:
    found = [_finding("VMA-LINK", mm) for mm in range(1, MOST + 1)]
    assert bounded(reversed(found)) == found


def test_many_of_one_rule_are_told_together() -> None:
    found = bounded(_finding("VMA-LINK", mm) for mm in range(1, 1001))
    assert [finding.pid for finding in found] == [*range(1, MOST + 1), 0]
    rest = found[-1]
    assert rest.title == "980 more like these, in 980 address spaces; pids 21, 22, 23, 24, 25, 26, 27, 28 and 972 more"
    assert [item.address for item in rest.evidence] == list(range(MOST + 1, 1001))
    assert rest.evidence[0].what == "high: pid 21 (bash): VMA-LINK of 21"


def test_what_is_hidden_stands_before_what_was_planted() -> None:
    planted = [_finding("VMA-LINK", mm) for mm in range(1, 1001)]
    found = bounded([*planted, _finding("VMA-MISSING", 5000)])
    assert found[0].rule.id == "VMA-MISSING"
    assert len(found) == MOST + 2


def test_the_most_severe_of_a_rule_stay_single() -> None:
    planted = [_finding("VMA-LINK", mm, severity=Severity.LOW) for mm in range(1, 1001)]
    found = bounded([*planted, _finding("VMA-LINK", 5000)])
    assert found[0].mm == 5000
    assert {finding.severity for finding in found[1:]} == {Severity.LOW}


def test_many_in_one_process_leave_room_for_others() -> None:
    planted = [_finding("VMA-MISSING", 1, start=place << 12) for place in range(1, 1001)]
    found = bounded([*planted, _finding("VMA-MISSING", 2)])
    assert len(found) == MOST_HIDING + 1
    assert 2 in [finding.mm for finding in found]


def test_all_rules_together_are_bounded() -> None:
    found = bounded(_finding(known.id, mm) for known in all_rules() for mm in range(1, 200))
    assert len(found) <= 200
    assert {finding.rule.id for finding in found} == {known.id for known in all_rules()}


def test_nothing_is_lost() -> None:
    planted = [_finding("VMA-LINK", mm % 7, start=mm << 12) for mm in range(1, 500)]
    rest = bounded(planted)[-1]
    told = [finding for finding in bounded(planted) if finding.mm or finding.start]
    assert len(told) + len(rest.evidence) == len(planted)
