"""What a check says: a finding, its evidence, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmaforensics.checks.rule import Confidence, Rule, Severity

if TYPE_CHECKING:
    from vmaforensics.views.operations.operation import Operation

__all__ = ["Confidence", "Evidence", "Finding", "ReadApart", "Rule", "Severity"]


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
    gaps: bool = False  # the range is that of several places, with others between them
    apart: int = 0  # pages, tables or records that an operation under way may have left so; 0: none can have
    told_of: int = 0  # address of what others are told of too: what left that apart answers for it once; 0: nothing
    by_others: bool = False  # what works on any address space may be at work on this one, and if mm is 0, every task
    at_once: bool = False  # the records that contradict each other lie in one page: they were read at one moment
    proven: str = ""  # why it was so at one moment though the records were read at several, in words
    settled: bool = False  # what others write of these records was found as no change leaves it: its process counts
    in_flight: bool = False  # an operation under way is what it comes from
    changed_by: tuple[Operation, ...] | None = None  # if fewer than the rule's leave just these records apart
    lock: str = "unknown"  # state of the mmap lock when the image was taken
    benign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadApart:
    """Contradictions of a process whose records were read at different moments, and what became of them."""

    pid: int  # 0: nobody's
    comm: bytes
    rules: tuple[str, ...]
    count: int  # of contradictions
    first: int  # ns of CLOCK_MONOTONIC: between these moments the records of the widest of them were read,
    last: int  # as estimated; both 0 if that is not known
    torn: bool  # cannot be assessed; else they stand, for nobody wrote these records meanwhile
    ran: bool  # the process ran meanwhile, or may have; else others wrote these records
    findings: tuple[Finding, ...] = ()  # the contradictions themselves

    @property
    def apart(self) -> int:
        """ns between the first and the last reading."""
        return self.last - self.first
