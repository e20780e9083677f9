"""One process's memory map, every record beside the others: the parts of that document, and its text form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

_AROUND = 2  # rows shown on either side of the address asked for
_WIDE = 28  # columns for a member's name


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part."""


class Schema(_Part, frozen=True):
    """Which format this is."""

    name: str = "vmaforensics-views"
    version: str = "1.0"


class Cell(_Part, frozen=True, omit_defaults=True):
    """What one view says of one region.

    ``held``: it has a record of it, at ``address``. ``missing``: it was read whole and has none, or one that
    says otherwise. ``unread``: it has none that could be read. ``none``: it need not have one.
    """

    state: Literal["held", "missing", "unread", "none"]
    address: str | None = None
    note: str = ""


class Row(_Part, frozen=True):
    """A region: an area, or a run of page-table entries that no area covers (``vma`` is null then)."""

    start: str
    end: str
    perms: str
    name: str
    vma: str | None
    cells: dict[str, Cell]


class Member(_Part, frozen=True):
    """A member of a structure, by the kernel's own types; ``size`` and ``offset`` in bytes."""

    name: str
    offset: int
    size: int
    value: str
    meaning: str = ""


class Step(_Part, frozen=True):
    """A record on the way from the task to the pages."""

    record: str
    address: str | None
    facts: dict[str, str]
    level: int = 0


class Detail(_Part, frozen=True):
    """Everything known of one region."""

    start: str
    end: str
    vma: str | None
    members: list[Member]
    chain: list[Step]


class SideBySide(_Part, frozen=True):
    """The memory map of one process."""

    schema: Schema
    pid: int
    comm: str
    task: str
    mm: str
    lock: str
    views: list[str]
    rows: list[Row]
    at: str | None = None
    details: list[Detail] = []


def render(document: SideBySide) -> str:
    """The text form: a table, then the details asked for."""
    head = f"pid {document.pid} ({document.comm}), task {document.task}, mm {document.mm}, lock {document.lock}"
    lines = [head, "", *_table(document)]
    if document.at is not None and not document.details:
        lines += ["", f"No record of this process covers {document.at}."]
    for one in document.details:
        lines += ["", *_detail(one)]
    return "\n".join(lines) + "\n"


def _table(document: SideBySide) -> Iterator[str]:
    table = [["", "range", "perms", "vm_area_struct", *document.views, "what"]]
    shown, last = _shown(document), -1
    for at in shown:
        if at != last + 1:
            table.append(["", "…"])
        last = at
        row = document.rows[at]
        cells = [_cell(row.cells.get(view)) for view in document.views]
        wrong = any(cell.state == "missing" for cell in row.cells.values())
        vma = "no area" if row.vma is None else row.vma[2:]
        table.append([">" if wrong else "", f"{row.start[2:]}-{row.end[2:]}", row.perms, vma, *cells, row.name])
    widths = [max(len(row[at]) for row in table if len(row) > at) for at in range(len(table[0]))]
    for line in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()


def _shown(document: SideBySide) -> list[int]:
    """Rows to print: all, or those around the address asked for."""
    if document.at is None:
        return list(range(len(document.rows)))
    asked = int(document.at, 16)
    chosen = {(one.start, one.end, one.vma) for one in document.details}
    near = [at for at, row in enumerate(document.rows) if (row.start, row.end, row.vma) in chosen]
    if not near:
        near = [sum(int(row.start, 16) <= asked for row in document.rows)]
    rows = {at for one in near for at in range(one - _AROUND, one + _AROUND + 1)}
    return sorted(at for at in rows if 0 <= at < len(document.rows))


def _cell(cell: Cell | None) -> str:
    if cell is None or cell.state == "none":
        return "-"
    word = {"missing": "no", "unread": "?"}.get(cell.state, "")
    parts = (word, (cell.address or "")[2:] if cell.state == "held" else "", cell.note)
    return " ".join(part for part in parts if part)


def _detail(one: Detail) -> Iterator[str]:
    if one.vma is None:
        yield f"{one.start}-{one.end}: page-table entries that no area covers"
    else:
        yield f"{one.start}-{one.end}: vm_area_struct at {one.vma}"
        if not one.members:
            yield "  the vm_area_struct is not in the dump"
        for member in one.members:
            text = f"  {member.offset:#06x}  {member.name:{_WIDE}}  {member.value:>18}  {member.meaning}"
            yield text.rstrip()
    yield ""
    yield "  from the task to the pages:"
    for step in one.chain:
        facts = ", ".join(f"{name} {value}".strip() for name, value in step.facts.items())
        place = step.address or ""
        yield f"    {'  ' * step.level}{step.record}  {place}{'  ' if place else ''}{facts}".rstrip()
