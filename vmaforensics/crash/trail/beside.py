"""The findings of the rules about just those records that a complaint is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.checks.rule import Severity
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.checks.finding import Finding
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.records import Records
    from vmaforensics.crash.trail.word import Trail

_MOST: Final = 8
_LEAST: Final = 4096  # numbers below are no addresses


def findings_beside(records: Records, complaint: Complaint, trail: Trail, findings: Sequence[Finding]) -> list[Finding]:
    """Those that are about an object, page, word or address that the complaint names, its registers hold, or it leads
    to; and of the same address space those that say that records contradict each other."""
    objects, spaces, addresses = _subjects(records, complaint, trail)
    found = []
    for finding in findings:
        named = any(
            item.address in addresses
            or _number(item.found) in addresses
            or any(low <= item.address < high for low, high in objects)
            for item in finding.evidence
        )
        same = finding.mm in spaces and finding.severity.rank <= Severity.MEDIUM.rank
        at = finding.mm in spaces and any(_holds(finding, address) for address in addresses)
        if named or same or at:
            found.append(finding)
    return found[:_MOST]


def _subjects(records: Records, complaint: Complaint, trail: Trail) -> tuple[list[tuple[int, int]], set[int], set[int]]:
    """(ranges of objects, address spaces, addresses) that it is about."""
    values = {*complaint.named.numbers.values(), *complaint.said.registers.values()}
    values |= {word.address or 0 for word in trail.words} | {word.user_address or 0 for word in trail.words}
    values |= {_number(word.found) for word in trail.words} | {_number(word.expected) for word in trail.words}
    arch, objects = records.kernel.arch, []
    for value in sorted(values):
        target = records.objects.at(value) if value >= _LEAST else None
        if target is not None and target.state != State.FREE:
            objects.append((target.start, target.start + target.size))
    frame = complaint.named.get("pfn")
    if frame is not None:
        objects.append((frame << arch.page_shift, (frame + 1) << arch.page_shift))
    spaces = {word.mm for word in trail.words} | {records.mm_of(complaint.said.pid)}
    known = set(records.views.mms.mm.tolist())
    spaces |= {start for start, _ in objects if start in known}
    return objects, spaces - {0}, {value for value in values if value >= _LEAST}


def _holds(finding: Finding, address: int) -> bool:
    return finding.start is not None and finding.end is not None and finding.start <= address < finding.end


def _number(text: str) -> int:
    """A hexadecimal word, 0 for anything else."""
    try:
        return int(text, 16) if text.startswith("0x") else 0
    except ValueError:
        return 0
