"""The document of a scan: what ``scan --format json`` writes, and the ``scan`` part of a report.

Addresses are hexadecimal strings; strings from the image and from rules are made printable.
"""

from __future__ import annotations

import msgspec


class ScanPiece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part."""


class ScanSchema(ScanPiece, frozen=True):
    """Which format this is."""

    name: str = "vmaforensics-scan"
    version: str = "1.0"


class RuleFile(ScanPiece, frozen=True):
    """A file of rules."""

    path: str
    sha256: str


class Owner(ScanPiece, frozen=True):
    """A process that has the page in its memory, and the region it lies in there."""

    pid: int
    comm: str
    mm: str
    address: str  # of the match, in that process
    start: str | None  # of the region; null where no record has one there
    end: str | None
    perms: str
    name: str
    hidden: bool  # the kernel's own index lacks the region
    shown_by: tuple[str, ...]  # records


class ScanMatch(ScanPiece, frozen=True):
    """A place that a pattern of the rule matched."""

    pattern: str
    offset: int  # bytes from the start of what was scanned together
    physical: str  # address of the first byte, of the first that is there if it begins in a gap
    length: int
    data: str  # the first bytes, hexadecimal
    text: str  # the same, printable


class ScanFinding(ScanPiece, frozen=True):
    """A rule that matched, and where. Of a page that several processes have there is one finding, with all of them."""

    id: str
    rule: str
    namespace: str
    tags: tuple[str, ...]
    meta: dict[str, str | int | float | bool]
    where: str  # kind of memory
    place: str  # in words
    file: str | None  # address_space of the file whose page it is
    holders: tuple[str, ...]  # who keeps that file without mapping it
    start: str  # of what was scanned together: an address, a place in a file, or a physical address
    size: int
    matches: tuple[ScanMatch, ...]
    more_matches: int
    owners: tuple[Owner, ...]
    more_owners: int


class PlaceStrings(ScanPiece, frozen=True):
    """What was scanned together: its entropy and its strings."""

    where: str
    place: str
    pid: int | None
    start: str
    size: int
    missing: int  # pages that are not in the image, counted as zeros
    entropy: float  # bits a byte
    strings: tuple[tuple[str, str, str], ...]  # place, encoding, text
    more_strings: int


class ScannedAmount(ScanPiece, frozen=True):
    """How much was scanned of one kind of memory."""

    where: str
    stretches: int
    bytes: int
    missing: int  # pages beside those that are not in the image


class NotScanned(ScanPiece, frozen=True):
    """Something that was not scanned, and why."""

    what: str
    why: str


class ScanPart(ScanPiece, frozen=True):
    """What a scan found."""

    rules: tuple[RuleFile, ...]
    findings: list[ScanFinding]
    more_findings: int
    scanned: tuple[ScannedAmount, ...]
    shared_pages: int  # pages of processes that were scanned once for all of them
    strings: list[PlaceStrings]
    not_scanned: list[NotScanned]


class ScanDocument(ScanPiece, frozen=True):
    """A scan of one image."""

    schema: ScanSchema
    image: str
    kernel: str
    scan: ScanPart


def json_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of :class:`ScanDocument`."""
    from vmaforensics.words.json_schema import json_schema_of  # a report does without

    return json_schema_of(ScanDocument, f"vmaforensics scan {ScanSchema().version}")
