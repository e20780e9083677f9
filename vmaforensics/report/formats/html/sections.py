"""Memory maps made ready to be shown: which regions, which nodes, and how much is left out."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmaforensics.report.formats.html.amounts import number
from vmaforensics.report.formats.html.cards import marks
from vmaforensics.report.formats.html.ladder import ladder, summary
from vmaforensics.report.formats.html.line import Line
from vmaforensics.report.formats.html.nodes import picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.parts import MemoryMap, Process
    from vmaforensics.report.formats.html.cards import Card
    from vmaforensics.report.formats.html.ladder import Ladder
    from vmaforensics.report.formats.html.nodes import Picture

# What keeps the file small: a row costs about 1.5 kB in picture and table.
_MOST_MAPS = 60
_ALL_ROWS = 600  # over all maps, in the order of their findings
_MOST_ROWS, _FEWEST_ROWS = 120, 9  # of one map
_MINOR_ROWS = 24  # of one that no finding above low is about
_MINOR = ("low", "info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One address space. ``left_out`` counts regions that neither picture nor table shows."""

    memory: MemoryMap
    process: Process | None
    anchor: str
    cards: tuple[Card, ...]
    serious: bool  # a finding above low is about it
    lines: tuple[Line, ...]
    left_out: int
    ladder: list[Ladder]
    summary: str
    picture: Picture | None


def sections(document: Document, shown: Sequence[Card]) -> tuple[list[Section], list[MemoryMap]]:
    """The maps to show, those with the most severe findings first, and the maps for which there is no room."""
    about: dict[str, list[Card]] = {}
    for card in shown:
        about.setdefault(card.finding.mm, []).append(card)
    rank = {key: at for at, key in enumerate(about)}
    maps = sorted(document.maps, key=lambda memory_map: rank.get(memory_map.mm, len(rank)))
    processes = {process.pid: process for process in document.processes}
    room, out = _ALL_ROWS, []
    for at, memory in enumerate(maps[:_MOST_MAPS]):
        named = about.get(memory.mm, [])
        section = _section(memory, processes.get(memory.pid), f"map-{at + 1}", named, room)
        room -= len(section.lines)
        out.append(section)
    return out, maps[_MOST_MAPS:]


def _section(memory: MemoryMap, process: Process | None, anchor: str, cards: list[Card], room: int) -> Section:
    """The memory map of one address space, cut to the rows nearest to findings.

    ``room`` is how many rows the page has left for maps; a map with a serious finding may have :data:`_MOST_ROWS`.
    """
    about: list[list[Card]] = [[] for _ in memory.rows]
    for card in cards:
        for at in card.rows:
            about[at].append(card)
    serious = any(card.finding.severity not in _MINOR for card in cards)
    kept = _nearest(memory, about, min(_MOST_ROWS if serious else _MINOR_ROWS, max(room, _FEWEST_ROWS)))
    hidden = _unlisted(memory, process)
    lines, last, low = [], -1, 0
    for at in kept:
        row = memory.rows[at]
        high = bisect_left(hidden, number(row.start) or 0)
        skipped = at - last - 1 + max(high - low, 0)
        lines.append(Line(row=row, marks=marks(row, memory.views), cards=tuple(about[at]), skipped=skipped))
        last, low = at, max(high, low)
    return Section(
        memory=memory,
        process=process,
        anchor=anchor,
        cards=tuple(cards),
        serious=serious,
        lines=tuple(lines),
        left_out=len(memory.rows) - len(kept) + memory.rows_left_out,
        ladder=ladder(lines, memory.views, len(memory.rows) - last - 1 + len(hidden) - low),
        summary=summary(lines, memory.views),
        picture=picture(memory.index, memory.nodes),
    )


def _unlisted(memory: MemoryMap, process: Process | None) -> list[int]:
    """Starts of the process's VMAs that a shortened map does not list, ascending: where they lie is no gap."""
    if not memory.rows_left_out or process is None:
        return []
    listed = {row.start for row in memory.rows}
    starts = (number(region.start) for region in process.regions if region.start not in listed)
    return sorted(start for start in starts if start is not None)


def _nearest(memory: MemoryMap, about: list[list[Card]], most: int) -> list[int]:
    """At most ``most`` rows: those that findings are about, then those that a view lacks, then their neighbours."""
    number = len(memory.rows)
    if number <= most:
        return list(range(number))
    wrong = [any(cell.state == "missing" for cell in row.cells.values()) for row in memory.rows]
    hits = [at for at in range(number) if about[at]]
    marked = hits or [at for at in range(number) if wrong[at]] or [0]
    distance = [number] * number
    for order in (range(number), range(number - 1, -1, -1)):
        near, step = number, set(marked)
        for at in order:
            near = 0 if at in step else near + 1
            distance[at] = min(distance[at], near)
    ranked = sorted(range(number), key=lambda at: (distance[at] > 2, not wrong[at], distance[at], at))
    return sorted(ranked[:most])
