"""That the kernel of an image crashed, or complained, as a part of the document: the short form of ``crash``."""

from __future__ import annotations

from vmaforensics.crash.trail.parts import NamedPart, WordPart  # noqa: TC001 - msgspec reads the annotations
from vmaforensics.report.document.parts import Part


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
