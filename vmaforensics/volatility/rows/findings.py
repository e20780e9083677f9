# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Rows for volatility3's grids: the findings, and under each the records that disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from volatility3.framework.configuration import requirements
from volatility3.framework.renderers import format_hints

from vmaforensics.checks.finding import Severity
from vmaforensics.volatility.rows.regions import NOT_APPLICABLE, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from volatility3.framework.interfaces.configuration import RequirementInterface

    from vmaforensics.checks.finding import Finding
    from vmaforensics.report.document.findings import Evidence
    from vmaforensics.report.document.findings import Finding as Shown

COLUMNS: list[tuple[str, type]] = [
    ("Severity", str),
    ("Confidence", str),
    ("Rule", str),
    ("PID", int),
    ("Process", str),
    ("Start", format_hints.Hex),
    ("End", format_hints.Hex),
    ("What", str),
    ("View", str),
    ("Address", format_hints.Hex),
    ("Found", str),
    ("Expected", str),
    ("ID", str),
]


def severity_requirement() -> RequirementInterface:
    """``--min-severity``."""
    return requirements.ChoiceRequirement(
        choices=[severity.value for severity in Severity],
        name="min_severity",
        description="Leave out findings below this severity",
        default=Severity.INFO.value,
        optional=True,
    )


def finding_rows(
    findings: Iterable[Finding], pids: Collection[int] = (), least: str = Severity.INFO.value
) -> Iterator[tuple[int, Row]]:
    """(level, row of :data:`COLUMNS`): a finding at level 0, then its evidence at level 1.

    Evidence repeats rule, process and id of its finding, so that a flat table can be filtered by them.
    """
    from vmaforensics.checks.bounds import bounded
    from vmaforensics.report.document.finding_parts import finding_part

    for finding in bounded(finding for finding in findings if not pids or finding.pid in pids):
        if finding.severity.rank > Severity(least).rank:
            continue
        known = finding_part(finding)
        yield 0, _finding_row(known)
        for item in known.evidence:
            yield 1, _evidence_row(known, item)


def _finding_row(finding: Shown) -> Row:
    bounds = (_hex(finding.start), _hex(finding.end))
    nothing: list[Any] = [NOT_APPLICABLE] * 4
    return (
        finding.severity,
        finding.confidence,
        finding.rule,
        finding.pid,
        finding.comm,
        *bounds,
        finding.title,
        *nothing,
        finding.id,
    )


def _evidence_row(finding: Shown, item: Evidence) -> Row:
    nothing: list[Any] = [NOT_APPLICABLE] * 2
    record = (item.view or NOT_APPLICABLE, _hex(item.address), item.found or NOT_APPLICABLE)
    expected = item.expected or NOT_APPLICABLE
    return (*nothing, finding.rule, finding.pid, finding.comm, *nothing, item.what, *record, expected, finding.id)


def _hex(text: str | None) -> Any:  # noqa: ANN401
    return NOT_APPLICABLE if text is None else format_hints.Hex(int(text, 16))
