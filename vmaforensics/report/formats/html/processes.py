"""Processes as a tree, flattened into rows: parents before their children, with depths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.parts import Process
    from vmaforensics.report.formats.html.cards import Card

_MOST = 2000
_DEEPEST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """VMAs that one view holds; ``partial``: of those that could be read."""

    number: str
    partial: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A counter, and what the VMAs add up to where that is something else."""

    number: str
    areas: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """A process. ``depth`` is of the tree, 0 for those without a parent in the report."""

    process: Process
    depth: int
    held: tuple[Held, ...]
    stored: tuple[Stored, ...]
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The table. ``kernel`` are the kernel's own threads; ``left_out`` counts further processes."""

    views: tuple[str, ...]
    rows: tuple[ProcessRow, ...]
    kernel: tuple[Process, ...]
    left_out: int
    times: bool  # whether any start is known
    parents: bool


COUNTERS = ("map_count", "total_vm")


def processes(document: Document, shown: Sequence[Card]) -> Processes:
    """Every process of ``document`` but kernel threads as a row."""
    about: dict[str, list[Card]] = {}
    for card in shown:
        about.setdefault(card.finding.mm, []).append(card)
        if not card.finding.mm:
            about.setdefault(f"pid {card.finding.pid}", []).append(card)
    others = [process for process in document.processes if process.kind != "kernel"]
    views = tuple(dict.fromkeys(view.view for process in others for view in process.views))
    placed = list(_placed(others))
    if len(placed) > _MOST:
        ranked = sorted(range(len(placed)), key=lambda at: (_key(placed[at][0]) not in about, at))
        placed = [placed[at] for at in sorted(ranked[:_MOST])]
    rows = tuple(_row(process, depth, views, about) for process, depth in placed)
    return Processes(
        views=views,
        rows=rows,
        kernel=tuple(process for process in document.processes if process.kind == "kernel")[:_MOST],
        left_out=len(others) - len(rows),
        times=any(process.started for process in others),
        parents=any(process.parent is not None for process in others),
    )


def _key(process: Process) -> str:
    return process.mm or f"pid {process.pid}"


def _row(process: Process, depth: int, views: tuple[str, ...], about: dict[str, list[Card]]) -> ProcessRow:
    """The row of one process: what each of ``views`` holds of it, each counter, and the cards of its findings."""
    held = {view.view: view for view in process.views}
    stored = {counter.name: counter for counter in process.counters}
    return ProcessRow(
        process=process,
        depth=depth,
        held=tuple(
            Held(number=f"{held[name].regions:,}", partial=not held[name].complete)
            if name in held
            else Held(number="", partial=False)
            for name in views
        ),
        stored=tuple(
            Stored(
                number=f"{stored[name].stored:,}",
                areas=f"{stored[name].areas:,}" if stored[name].areas != stored[name].stored else "",
            )
            if name in stored
            else Stored(number="", areas="")
            for name in COUNTERS
        ),
        cards=tuple(about.get(_key(process), ())),
    )


def _placed(everyone: Sequence[Process]) -> Iterator[tuple[Process, int]]:
    """(process, depth) from the roots down; each once, whatever the parents say."""
    pids = {process.pid for process in everyone}
    children: dict[int, list[Process]] = {}
    roots = []
    for process in everyone:
        if process.parent is None or process.parent not in pids or process.parent == process.pid:
            roots.append(process)
        else:
            children.setdefault(process.parent, []).append(process)
    seen: set[int] = set()
    for start in (*roots, *everyone):  # parents that form a ring start at the first of them
        stack = [(start, 0)]
        while stack:
            process, depth = stack.pop()
            if id(process) in seen:
                continue
            seen.add(id(process))
            yield process, min(depth, _DEEPEST)
            stack += [(child, depth + 1) for child in reversed(children.get(process.pid, []))]
