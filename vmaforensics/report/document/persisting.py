"""What contradicts itself in two acquisitions of one running machine: it is no smear.

Findings of both, and records that were torn in one and are torn or found in the other, where they say the same word by
word. Absences from what everybody changes are torn each time, and prove nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.report.document.parts import Part

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from vmaforensics.report.document.acquired import Torn
    from vmaforensics.report.document.document import Document

# Rules that find an index broken; and those that compare what one VMA, entry or task says with what leads to it.
_BROKEN = {"VMA-LINK", "VMA-UNLINKED", "VMA-OWNER", "VMA-ORDER", "MT-NODE", "MT-PIVOT", "RB-SHAPE"}
_OF_ONE = {
    *("PTE-PERM", "PTE-KERNEL", "TEXT-MODIFIED", "VMA-PROT", "VMA-RANGE", "VMA-PGOFF"),
    *("RMAP-TREE", "RMAP-FILE-MISSING", "TASK-HIDDEN"),
}
_OF_CONTENTS = {"TEXT-MODIFIED"}  # whose words are the entry and the frame that belongs there
_EMPTY_SLOT = ("VMA-MISSING", "maple tree")
_OF_SHARED, _PROVEN = {"RMAP-FILE-MISSING", "RMAP-ANON-MISSING"}, "that it names as its parent is in the tree"
_NOBODY = "0x0"


class Persisting(Part, frozen=True):
    """What contradicts itself in both, though one of the two at least was taken while the machine ran.

    ``torn``: neither of the two could tell whether it was only read at different moments. It was not.
    """

    rule: str
    severity: str
    pid: int
    comm: str
    mm: str
    torn: bool
    what: tuple[str, ...]  # the records that say the same in both; the title of a finding


def persisting(before: Document, after: Document) -> Iterator[Persisting]:
    """The most severe first: findings of both, and records that were torn in one and are torn or found in the other."""
    acquired = [document.acquired for document in (before, after)]
    if all(part is None or part.how != "live" for part in acquired):
        return
    rows = [*_in_both(before, after), *_torn_in_both(before, after)]
    ranks = ("critical", "high", "medium", "low", "info")
    yield from sorted(rows, key=lambda row: (ranks.index(row.severity), not row.torn, row.pid, row.rule))


def _in_both(before: Document, after: Document) -> Iterator[Persisting]:
    old = {finding.id for finding in before.findings}
    for finding in after.findings:
        if finding.id in old:
            yield Persisting(
                rule=finding.rule,
                severity=finding.severity,
                pid=finding.pid,
                comm=finding.comm,
                mm=finding.mm,
                torn=False,
                what=(finding.title,),
            )


def _torn_in_both(before: Document, after: Document) -> Iterator[Persisting]:
    """Records that say the same, word by word, in both."""
    old, new = ({_record(row): row for row in _torn(document)} for document in (before, after))
    found = _found(before), _found(after)
    same = [row for key, row in new.items() if key in old or key in found[0]]
    same += [row for key, row in old.items() if key in found[1] and key not in new]
    broken = {row.mm for row in (*old.values(), *new.values()) if row.rule in _BROKEN}
    groups: dict[tuple[str, str], list[Torn]] = {}
    for row in same:
        slot = (row.rule, row.view) == _EMPTY_SLOT and row.address != row.mm
        if row.mm in broken and row.rule not in _OF_ONE and not slot:
            continue  # what such an index does not lead to is missing from it each time
        if row.mm == _NOBODY and row.rule != "TASK-HIDDEN":
            continue
        if row.rule in _OF_SHARED and _PROVEN not in row.what:
            continue  # trees that everybody changes are torn each time
        groups.setdefault((row.rule, row.mm), []).append(row)
    for rows in groups.values():
        yield Persisting(
            rule=rows[0].rule,
            severity=rows[0].severity,
            pid=rows[0].pid,
            comm=rows[0].comm,
            mm=rows[0].mm,
            torn=True,
            what=tuple(row.what for row in rows),
        )


def _torn(document: Document) -> tuple[Torn, ...]:
    return () if document.acquired is None else document.acquired.torn


def _record(row: Torn) -> Hashable:
    return row.rule, row.mm, row.view, row.address, _words(row.rule, row.what), row.found, row.expected


def _words(rule: str, what: str) -> str:
    """What has to be the same too: not what somebody has put into a frame meanwhile, if it is the same frame."""
    return "" if rule in _OF_CONTENTS else what


def _found(document: Document) -> set[Hashable]:
    """The same of findings."""
    return {
        (finding.rule, finding.mm, item.view, item.address, _words(finding.rule, item.what), item.found, item.expected)
        for finding in document.findings
        for item in finding.evidence
    }
