"""What a complaint names and leads to, as parts of the document. Addresses are hexadecimal strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vmaforensics.crash.meanings import MEANINGS
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.checks.finding import Finding
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.patterns import Kind
    from vmaforensics.crash.trail.word import BrokenWord

_HASHED: Final = "_hashed"
_MOST_EVIDENCE: Final = 16


class NamedPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A thing that the lines of a complaint name; ``hashed``: the kernel printed no address, but a name for one."""

    what: str
    value: str
    hashed: bool = False


class WordPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A word that is broken; ``sure`` is "certain", "likely" or "possible" (one of several that fit)."""

    what: str
    address: str | None  # kernel virtual
    physical: str | None
    user_address: str | None  # that it is about
    mm: str | None
    found: str
    expected: str
    sure: str
    why: tuple[str, ...]


class EvidencePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One record that takes part in a disagreement."""

    what: str
    view: str
    address: str | None
    found: str
    expected: str


class FindingPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rule of ``report`` says of the records that the complaint is about."""

    rule: str
    severity: str
    pid: int
    comm: str
    mm: str
    start: str | None
    end: str | None
    title: str
    evidence: tuple[EvidencePart, ...]


class MeaningPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What such a complaint means, what to look at next, and where the kernel says it."""

    says: str
    look: str
    source: str


def named_parts(complaint: Complaint) -> list[NamedPart]:
    """What the lines of a complaint name, in their order."""
    named = complaint.named
    found = [
        NamedPart(
            what=name.removesuffix(_HASHED),
            value=str(value) if name in named.decimal else hex(value),
            hashed=name.endswith(_HASHED),
        )
        for name, value in named.numbers.items()
    ]
    found += [NamedPart(what=name, value=printable(text)) for name, text in named.texts.items()]
    found += [NamedPart(what=f"struct page word {place}", value=hex(word)) for place, word in enumerate(named.raw)]
    return found


def meaning_part(kind: Kind) -> MeaningPart | None:
    """What a complaint of a kind means."""
    meaning = MEANINGS.get(kind)
    return None if meaning is None else MeaningPart(**meaning._asdict())


def word_part(word: BrokenWord) -> WordPart:
    """A word that is broken."""
    return WordPart(
        what=printable(word.what),
        address=_hex(word.address),
        physical=_hex(word.physical),
        user_address=_hex(word.user_address),
        mm=_hex(word.mm or None),
        found=printable(word.found),
        expected=printable(word.expected),
        sure=word.sure.value,
        why=tuple(printable(text) for text in word.why),
    )


def finding_parts(findings: Iterable[Finding]) -> list[FindingPart]:
    """Findings of the checks."""
    return [
        FindingPart(
            rule=finding.rule.id,
            severity=finding.severity.value,
            pid=finding.pid,
            comm=printable(finding.comm),
            mm=hex(finding.mm),
            start=_hex(finding.start),
            end=_hex(finding.end),
            title=printable(finding.title),
            evidence=tuple(
                EvidencePart(
                    what=printable(item.what),
                    view=item.view,
                    address=_hex(item.address or None),
                    found=item.found,
                    expected=item.expected,
                )
                for item in finding.evidence[:_MOST_EVIDENCE]
            ),
        )
        for finding in findings
    ]


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)
