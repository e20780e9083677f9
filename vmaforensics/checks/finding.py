"""What a check says: a finding, its evidence, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters, highest first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the highest."""
        return list(Severity).index(self)


class Confidence(StrEnum):
    """How sure it is that the records disagree for the reason the finding gives."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of cross-checking. ``id`` never changes once published."""

    id: str
    severity: Severity
    confidence: Confidence
    title: str  # what is wrong, in general
    why: str  # why it matters
    benign: tuple[str, ...]  # innocent causes
    attack: tuple[str, ...] = ()  # ATT&CK technique ids it is consistent with


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One record that takes part in a disagreement."""

    what: str  # a sentence
    view: str  # label of the view it was read from
    address: int  # of the word or structure, 0 if there is none
    found: str = ""
    expected: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A disagreement between records. ``start`` and ``end`` are None where no range can be named."""

    rule: Rule
    severity: Severity
    confidence: Confidence
    mm: int
    pid: int
    comm: bytes
    title: str
    evidence: tuple[Evidence, ...]
    start: int | None = None
    end: int | None = None
    lock: str = "unknown"  # state of the mmap lock when the image was taken
    benign: tuple[str, ...] = ()
