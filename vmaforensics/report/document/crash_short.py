"""The short form of a crash case, for the report: made here, so that who reads a document needs no crash case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.crash.quiet import is_quiet
from vmaforensics.progress import unheard
from vmaforensics.report.document.crash_part import CrashComplaint, CrashDeath, CrashPart

if TYPE_CHECKING:
    from vmaforensics.analysis import Analysis
    from vmaforensics.crash.document import ComplaintPart, CrashDocument, DeathPart

_MOST = 16  # complaints: the first and the last of them


def crash_part(analysis: Analysis) -> CrashPart | None:
    """What there is to say; None of a kernel that neither crashed nor complained. Stacks are left to ``crash``."""
    if is_quiet(analysis.kernel):
        return None
    from vmaforensics.crash.build import build_crash_document
    from vmaforensics.crash.gather import follow_with, gather_case

    case = gather_case(analysis.image, analysis.kernel, unheard, ("log",))
    if case.death is None and not case.complaints.kept:
        return None
    case = follow_with(case, analysis.views, analysis.findings)
    return short_form(build_crash_document(case, lines=0))


def short_form(document: CrashDocument) -> CrashPart:
    """What of a crash case stands in a report."""
    complaints = document.complaints
    kept = complaints if len(complaints) <= _MOST else [*complaints[: _MOST // 2], *complaints[-_MOST // 2 :]]
    return CrashPart(
        verdict=document.verdict,
        death=None if document.death is None else _death(document.death),
        complaints=tuple(_complaint(complaint) for complaint in kept),
        complaints_left_out=document.complaints_left_out + len(complaints) - len(kept),
    )


def _death(death: DeathPart) -> CrashDeath:
    return CrashDeath(
        kind=death.kind,
        how=death.how,
        text=death.text,
        time=death.time,
        cpu=death.cpu,
        pid=death.pid,
        comm=death.comm,
        cause=death.cause,
        fingerprint=death.fingerprint,
        functions=tuple(death.functions),
    )


def _complaint(complaint: ComplaintPart) -> CrashComplaint:
    meaning = complaint.meaning
    return CrashComplaint(
        kind=complaint.kind,
        time=complaint.time,
        text=complaint.text,
        pid=complaint.pid,
        comm=complaint.comm,
        ended=complaint.ended,
        named=tuple(complaint.named),
        words=tuple(complaint.words),
        notes=tuple(complaint.notes),
        findings=tuple(sorted({finding.rule for finding in complaint.findings})),
        says="" if meaning is None else meaning.says,
        look="" if meaning is None else meaning.look,
    )
