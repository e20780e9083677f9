"""What a scan found as CSV: a row a place, and no cell that a spreadsheet or a terminal would run."""

from __future__ import annotations

import csv
import io

import pytest

from vmaforensics.report.formats.scan_csv import COLUMNS, scan_csv
from vmaforensics.scan.document import Owner, ScanFinding, ScanMatch, ScanPart
from vmaforensics.words.printable import printable

from .hostile import NAMES


def part(*findings: ScanFinding) -> ScanPart:
    return ScanPart(
        rules=(), findings=[*findings], more_findings=0, scanned=(), shared_pages=0, strings=[], not_scanned=[]
    )


def finding(text: str, *, matches: int = 2, pids: tuple[int, ...] = (7, 7, 9)) -> ScanFinding:
    owners = [
        Owner(
            pid=pid,
            comm=text,
            mm="0x1",
            address=hex(0x5000 + at),
            start="0x5000",
            end="0x6000",
            perms="r-xp",
            name=text,
            hidden=pid == 9,
            shown_by=("slab",),
        )
        for at, pid in enumerate(pids)
    ]
    places = [
        ScanMatch(pattern="$a", offset=16 * at, physical=hex(0x1000 + at), length=4, data="41424344", text=text)
        for at in range(matches)
    ]
    return ScanFinding(
        id="0123",
        rule="planted",
        namespace="rules",
        tags=("one", "two"),
        meta={},
        where="process memory",
        place=text,
        file=None,
        holders=(),
        start="0x0",
        size=4096,
        matches=tuple(places),
        more_matches=3,
        owners=tuple(owners),
        more_owners=1,
    )


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_each_place_is_a_row_with_all_who_have_it() -> None:
    first, second = rows("".join(scan_csv(part(finding("bash")))))
    assert tuple(first) == COLUMNS
    assert (first["physical"], second["physical"]) == ("0x1000", "0x1001")
    assert (first["offset"], second["offset"]) == ("0x0", "0x10")
    assert first["pids"] == second["pids"] == "7 9"
    assert first["hidden_pids"] == "9"
    assert (first["address"], first["region"]) == ("0x5000", "0x5000-0x6000 r-xp bash")
    assert (second["address"], second["region"]) == ("", "")  # they are those of the first match
    assert (first["more_matches"], first["more_owners"]) == ("3", "1")


def test_a_rule_without_a_pattern_has_a_row() -> None:
    (row,) = rows("".join(scan_csv(part(finding("bash", matches=0, pids=())))))
    assert (row["rule"], row["pattern"], row["physical"], row["pids"]) == ("planted", "", "", "")


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_acts(name: bytes) -> None:
    text = "".join(scan_csv(part(finding(printable(name)))))
    assert all(char.isprintable() for char in text.replace("\r\n", ""))
    assert text.count("\r\n") == 3
    for row in rows(text):
        assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in row.values())
