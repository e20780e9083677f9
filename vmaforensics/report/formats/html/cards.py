"""Findings made ready to be shown: what each view says of the place, bytes, commands, a name to link to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmaforensics.report.formats.html.amounts import extent, number
from vmaforensics.report.formats.html.places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmaforensics.compare.records_document import Cell, Row
    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding, Hexdump
    from vmaforensics.report.document.parts import MemoryMap

_PER_LINE = 16  # bytes
_MOST_BYTES = 256
_WORDS = {"held": "yes", "missing": "no", "unread": "unread", "none": "–"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What one view says of one region. ``word`` fits a narrow column, ``note`` says the rest."""

    view: str
    state: str
    word: str
    address: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """Bytes in lines of (address, hexadecimal, characters); no lines: not in the dump."""

    what: str
    address: str
    lines: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A finding, and what is derived from it."""

    finding: Finding
    anchor: str
    size: str  # of its one region; empty where it joins several
    rows: frozenset[int]  # regions of its memory map that it is about
    row: Row | None  # the one of them that it is about most
    marks: tuple[Mark, ...]
    dumps: tuple[Dump, ...]
    commands: tuple[str, ...]


def cards(document: Document, most: int) -> list[Card]:
    """A card for each of the ``most`` gravest findings, in the order of severity and otherwise of the document."""
    order = ("critical", "high", "medium", "low", "info")
    maps = {memory_map.mm: (memory_map, Places(memory_map.rows)) for memory_map in document.maps}
    ordered = sorted(document.findings, key=lambda finding: order.index(finding.severity))
    taken: dict[str, int] = {}
    return [_card(finding, maps.get(finding.mm), taken) for finding in ordered[:most]]


def marks(row: Row, views: Sequence[str]) -> tuple[Mark, ...]:
    """The cells of ``row``, one per view; a view without a cell need not have one."""
    return tuple(_mark(view, row.cells.get(view)) for view in views)


def _mark(view: str, cell: Cell | None) -> Mark:
    if cell is None:
        return Mark(view=view, state="none", word=_WORDS["none"], address="", note="")
    return Mark(view=view, state=cell.state, word=_WORDS[cell.state], address=cell.address or "", note=cell.note)


def _card(finding: Finding, memory: tuple[MemoryMap, Places] | None, taken: dict[str, int]) -> Card:
    at = memory[1].of(finding) if memory is not None else []
    row = _closest(finding, [memory[0].rows[index] for index in at]) if memory is not None else None
    return Card(
        finding=finding,
        anchor=_anchor(finding.id, taken),
        size=extent(finding.start, finding.end) if len(at) == 1 or (not at and finding.vma is not None) else "",
        rows=frozenset(at),
        row=row,
        marks=marks(row, memory[0].views) if row is not None and memory is not None else (),
        dumps=tuple(_dump(dump) for dump in finding.dumps),
        commands=tuple(_commands(finding)),
    )


def _anchor(name: str, taken: dict[str, int]) -> str:
    """A fragment that is the finding's id where that is fit for one, and is used once."""
    anchor = "f-" + (re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:64] or "x")
    taken[anchor] = taken.get(anchor, 0) + 1
    return anchor if taken[anchor] == 1 else f"{anchor}~{taken[anchor]}"


def _closest(finding: Finding, rows: Sequence[Row]) -> Row | None:
    """The region a finding is about most: its own VMA, else the one at its start, else one that a view lacks."""

    def nearness(row: Row) -> tuple[bool, bool, bool]:
        missing = any(cell.state == "missing" for cell in row.cells.values())
        return finding.vma is None or row.vma != finding.vma, row.start != finding.start, not missing

    return min(rows, key=nearness, default=None)


def _dump(dump: Hexdump) -> Dump:
    try:
        data = bytes.fromhex(dump.data or "")[:_MOST_BYTES]
    except ValueError:
        data = b""
    base = number(dump.address) or 0
    lines = []
    for at in range(0, len(data), _PER_LINE):
        part = data[at : at + _PER_LINE]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in part)
        halves = (part[:8].hex(" "), part[8:].hex(" "))
        lines.append((f"{base + at:016x}", "  ".join(halves), shown))
    return Dump(what=dump.what, address=dump.address, lines=tuple(lines))


def _commands(finding: Finding) -> Iterator[str]:
    """Our own commands that show more of it."""
    if finding.pid and finding.mm and number(finding.start) is not None:
        yield f"vmaforensics views IMAGE --pid {finding.pid} --at {finding.start}"
        yield f"vmaforensics pages IMAGE --pid {finding.pid} --at {finding.start}"
        if re.fullmatch(r"[A-Za-z0-9_.-]+", finding.id) and not finding.id.startswith("-"):
            yield f"vmaforensics extract IMAGE --finding {finding.id} -o DIR"
    elif finding.pid:
        yield f"vmaforensics views IMAGE --pid {finding.pid}"
    if re.fullmatch(r"[A-Z0-9][A-Z0-9-]*", finding.rule):
        yield f"vmaforensics explain {finding.rule}"
