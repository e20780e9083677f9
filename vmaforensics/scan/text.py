"""The result of a scan as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.words.amounts import amount, counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.scan.document import PlaceStrings, ScanFinding, ScanPart

_MOST_OWNERS, _MOST_MATCHES = 4, 4
_MOST_FINDINGS = 1000


def render(part: ScanPart) -> Iterator[str]:
    """Lines, each with its newline."""
    for finding in part.findings[:_MOST_FINDINGS]:
        yield from finding_lines(finding)
    rest = len(part.findings) - _MOST_FINDINGS
    if rest > 0 or part.more_findings:
        yield f"and {counted(max(rest, 0) + part.more_findings, 'more finding')}\n"
    for place in part.strings:
        yield from _strings(place)
    yield from summary(part)


def summary(part: ScanPart) -> Iterator[str]:
    """How much was scanned, and what was not."""
    if part.rules:
        yield f"{counted(len(part.findings) + part.more_findings, 'match', 'es')} of rules\n"
    for scanned in part.scanned:
        missing = f", {counted(scanned.missing, 'page')} not in the image" if scanned.missing else ""
        count = counted(scanned.stretches, "stretch", "es")
        yield f"  scanned: {scanned.where}, {amount(scanned.bytes)} in {count}{missing}\n"
    if part.shared_pages:
        yield f"  {counted(part.shared_pages, 'page')} of processes were scanned where others have the same\n"
    for problem in part.not_scanned:
        yield f"  not scanned: {problem.what}: {problem.why}\n"


def finding_lines(finding: ScanFinding) -> Iterator[str]:
    """A finding: its rule, where it is, whose that is, and what matched."""
    tags = f" [{' '.join(finding.tags)}]" if finding.tags else ""
    yield f"{finding.rule}{tags}  {finding.place}\n"
    for owner in finding.owners[:_MOST_OWNERS]:
        region = f" in {owner.start}-{owner.end} {owner.perms} {owner.name}".rstrip() if owner.start else ""
        hidden = "hidden, " if owner.hidden else ""
        yield f"    pid {owner.pid} ({owner.comm}) at {owner.address}{region} ({hidden}{', '.join(owner.shown_by)})\n"
    more = len(finding.owners) - _MOST_OWNERS
    if more > 0 or finding.more_owners:
        yield f"    and {counted(max(more, 0) + finding.more_owners, 'more place')} in processes\n"
    for holder in finding.holders:
        yield f"    kept by {holder}\n"
    for match in finding.matches[:_MOST_MATCHES]:
        yield f"    {match.pattern} at +{match.offset:#x}, physical {match.physical}: {match.text}\n"
    more = len(finding.matches) - _MOST_MATCHES
    if more > 0 or finding.more_matches:
        yield f"    and {counted(max(more, 0) + finding.more_matches, 'more match', 'es')}\n"


def _strings(place: PlaceStrings) -> Iterator[str]:
    count = len(place.strings) + place.more_strings
    yield f"{place.place}: {amount(place.size)}, entropy {place.entropy:.2f} bits a byte, {counted(count, 'string')}\n"
    for at, _, text in place.strings:
        yield f"    {at}  {text}\n"
    if place.more_strings:
        yield f"    and {place.more_strings:,} more\n"
