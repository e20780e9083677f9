"""That the kernel of an image crashed, or complained, as a part of the document: the short form of ``crash``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.crash.build import build_crash_document
from vmaforensics.crash.gather import follow_with, gather_case, is_quiet
from vmaforensics.crash.trail.parts import NamedPart, WordPart  # noqa: TC001 - msgspec reads the annotations
from vmaforensics.progress import unheard
from vmaforensics.report.document.parts import Part

if TYPE_CHECKING:
    from vmaforensics.analysis import Analysis
    from vmaforensics.crash.document import ComplaintPart, CrashDocument, DeathPart

_MOST = 16  # complaints: the first and the last of them


class CrashDeath(Part, frozen=True):
    """How the kernel ended; see the document of ``crash``."""

    kind: str
    how: str
    text: str | None
    time: str | None  # seconds since boot
    cpu: int | None
    pid: int | None
    comm: str | None
    cause: str | None
    fingerprint: str | None
    functions: tuple[str, ...]


class CrashComplaint(Part, frozen=True):
    """Something the kernel complained of, and the words of the image that it leads to.

    ``findings`` are the rules whose findings are about the same records.
    """

    kind: str
    time: str
    text: str
    pid: int | None
    comm: str | None
    ended: bool  # it led to the end
    named: tuple[NamedPart, ...]
    words: tuple[WordPart, ...]
    notes: tuple[str, ...]
    findings: tuple[str, ...]
    says: str  # what such a complaint means
    look: str  # what to look at next


class CrashPart(Part, frozen=True):
    """A kernel that crashed or complained. ``death`` is null where it had not crashed."""

    verdict: str
    death: CrashDeath | None
    complaints: tuple[CrashComplaint, ...]
    complaints_left_out: int


def crash_part(analysis: Analysis) -> CrashPart | None:
    """What there is to say; None of a kernel that neither crashed nor complained. Stacks are left to ``crash``."""
    if is_quiet(analysis.kernel):
        return None
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
