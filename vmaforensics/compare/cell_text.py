"""The text of cells and rows: the one place where a comparison becomes words and hexadecimal strings."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_WRITE
from vmaforensics.compare.anchor_cells import anchor_names
from vmaforensics.compare.cells import (
    AnchorCells,
    AnonCells,
    Cells,
    CellState,
    FileCells,
    IndexCells,
    PageTableCells,
    SlabCells,
)
from vmaforensics.compare.records_document import Cell, Row
from vmaforensics.views.view import View
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.words.amounts import plural
from vmaforensics.words.permissions import vma_permissions
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.compare.cells import StateWord
    from vmaforensics.compare.comparison import Comparison

_MOST = 3  # anchors named in a cell
_MISSING = Cell(state="missing")


def rows_shown(compared: Comparison) -> list[Row]:
    """The rows of one address space in the order of :meth:`Comparison.shown_order`."""
    count = len(compared.vmas)
    return [
        vma_row(compared, place) if place < count else run_row(compared, place - count)
        for place in compared.shown_order().tolist()
    ]


def vma_row(compared: Comparison, row: int) -> Row:
    """A VMA with the cells of every record."""
    vmas = compared.vmas
    return Row(
        start=hex(vmas.start[row]),
        end=hex(vmas.end[row]),
        perms=vma_permissions(int(vmas.flags[row])) if vmas.ok[row] else "?",
        name=printable(compared.names[int(vmas.name[row])]) or Kind(int(vmas.kind[row])).label,
        vma=hex(vmas.vma[row]),
        cells={view.label: cell_text(cells, row) for view, cells in compared.cells().items()},
    )


def run_row(compared: Comparison, row: int) -> Row:
    """A run of page-table entries that no VMA covers: no index has anything there."""
    runs = compared.runs
    start, end = int(runs.start[row]), int(runs.end[row])
    cells = dict.fromkeys((view.label for view in compared.indices), _MISSING)
    cells[View.PAGE_TABLES.label] = Cell(state="held", address=hex(runs.where[row]), note=_pages(int(runs.pages[row])))
    content = run_content(compared, row)
    return Row(
        start=hex(start),
        end=hex(end),
        perms=rights(int(runs.allow[row])),
        name=f"holds {content}" if content else "",
        vma=None,
        cells=cells,
    )


def run_content(compared: Comparison, row: int) -> str:
    """What the first page of a run looks like; empty where it was not looked at."""
    place = int(compared.runs.content[row])
    return compared.contents[place] if place >= 0 else ""


def rights(allow: int) -> str:
    """What entries without a VMA allow, as ``permissions`` writes it of a VMA; ``allow`` is of ALLOW_*."""
    write, execute = allow & ALLOW_WRITE, allow & ALLOW_EXECUTE
    return f"r{'w' if write else '-'}{'x' if execute else '-'}"


@singledispatch
def cell_text(cells: Cells, row: int) -> Cell:
    """The cell of one VMA as it is published: its state, the record's address, and what is to be said of it."""
    return Cell(state=_state(cells, row))


@cell_text.register
def _(cells: IndexCells, row: int) -> Cell:
    note = f"as {int(cells.low[row]):x}-{int(cells.high[row]):x}" if cells.other_range[row] else ""
    return Cell(state=_state(cells, row), address=_address(int(cells.slot[row])), note=note)


@cell_text.register
def _(cells: PageTableCells, row: int) -> Cell:
    if cells.state[row] != CellState.HELD:
        return Cell(state=_state(cells, row))
    swapped = int(cells.swapped[row])
    note = _pages(int(cells.mapped[row])) + (f", {swapped} swapped" if swapped else "")
    return Cell(state="held", address=hex(cells.where[row]), note=note)


@cell_text.register
def _(cells: SlabCells, row: int) -> Cell:
    if cells.outside[row]:
        return Cell(state="missing", note="(outside the cache)")
    known = cells.free[row] or cells.state[row] == CellState.HELD
    return Cell(
        state=_state(cells, row),
        address=hex(cells.page[row]) if known else None,
        note="(free)" if cells.free[row] else "",
    )


@cell_text.register
def _(cells: FileCells, row: int) -> Cell:
    note = f"in that of {int(cells.tree[row]):#x}" if cells.other_tree[row] else ""
    return Cell(state=_state(cells, row), address=_address(int(cells.node[row])), note=note)


@cell_text.register
def _(cells: AnonCells, row: int) -> Cell:
    state, links, link = _state(cells, row), int(cells.links[row]), int(cells.link[row])
    if state == "held":
        return Cell(state=state, address=hex(link), note=f"and {links - 1} more" if links > 1 else "")
    return Cell(state=state, note=f"({links} links)" if cells.unowned[row] else "")


@cell_text.register
def _(cells: AnchorCells, row: int) -> Cell:
    names = anchor_names(int(cells.names[row]))
    more = f" +{len(names) - _MOST}" if len(names) > _MOST else ""
    return Cell(state=_state(cells, row), note=" ".join(names[:_MOST]) + more)


def _state(cells: Cells, row: int) -> StateWord:
    return CellState(int(cells.state[row])).word


def _address(address: int) -> str | None:
    return hex(address) if address else None


def _pages(count: int) -> str:
    return f"{count} {plural(count, 'page')}"
