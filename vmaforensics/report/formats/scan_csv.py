"""What a scan found as CSV: a row for each place that a pattern matched, as safe to open as ``csv_`` makes it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from vmaforensics.report.formats.csv_ import cell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.scan.document import ScanFinding, ScanMatch, ScanPart

COLUMNS = (
    *("finding", "rule", "namespace", "tags", "where", "place"),
    *("pattern", "offset", "physical", "length", "data", "text"),
    *("pids", "hidden_pids", "address", "region", "more_matches", "more_owners"),
)


def scan_csv(part: ScanPart) -> Iterator[str]:
    """Lines, the names of columns first. A rule that matches without a pattern has a row without a place; what was
    left out of a finding is counted in its rows. ``address`` and ``region`` are those of the first process that has
    the first match."""
    yield _line(COLUMNS)
    for finding in part.findings:
        for number, match in enumerate(finding.matches or (None,)):
            yield _line(_cells(finding, match, first=number == 0))


def _cells(finding: ScanFinding, match: ScanMatch | None, *, first: bool) -> tuple[str | int, ...]:
    owner = finding.owners[0] if finding.owners and first else None
    region = f"{owner.start}-{owner.end} {owner.perms} {owner.name}".rstrip() if owner and owner.start else ""
    told = (finding.id, finding.rule, finding.namespace, " ".join(finding.tags), finding.where, finding.place)
    place = ("", "", "", "", "", "")
    if match is not None:
        place = (match.pattern, hex(match.offset), match.physical, str(match.length), match.data, match.text)
    pids = sorted({owner.pid for owner in finding.owners})
    hidden = sorted({owner.pid for owner in finding.owners if owner.hidden})
    whose = (*(" ".join(map(str, some)) for some in (pids, hidden)), owner.address if owner else "", region)
    return (*map(cell, (*told, *place, *whose)), finding.more_matches, finding.more_owners)


def _line(cells: tuple[str | int, ...]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()
