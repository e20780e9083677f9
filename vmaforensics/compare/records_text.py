"""The records of one memory map beside each other, as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.compare.records_document import Cell, Detail, RecordsDocument

_AROUND = 2  # rows shown on either side of the address asked for
_WIDE = 28  # columns for a member's name


def render(document: RecordsDocument) -> str:
    """A table with a row per region and a column per record, then the details asked for."""
    head = f"pid {document.pid} ({document.comm}), task {document.task}, mm {document.mm}, lock {document.lock}"
    lines = [head, "", *_table(document)]
    if document.at is not None and not document.details:
        lines += ["", f"No record of this process covers {document.at}."]
    for detail in document.details:
        lines += ["", *_detail(detail)]
    return "\n".join(lines) + "\n"


def _table(document: RecordsDocument) -> Iterator[str]:
    table = [["", "range", "perms", "vm_area_struct", *document.views, "what"]]
    shown, last = _shown(document), -1
    for at in shown:
        if at != last + 1:
            table.append(["", "…"])
        last = at
        row = document.rows[at]
        cells = [_cell(row.cells.get(view)) for view in document.views]
        wrong = any(cell.state == "missing" for cell in row.cells.values())
        vma = "no VMA" if row.vma is None else row.vma[2:]
        table.append([">" if wrong else "", f"{row.start[2:]}-{row.end[2:]}", row.perms, vma, *cells, row.name])
    widths = [max(len(row[at]) for row in table if len(row) > at) for at in range(len(table[0]))]
    for line in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()


def _shown(document: RecordsDocument) -> list[int]:
    """Rows to print: all, or those around the address asked for."""
    if document.at is None:
        return list(range(len(document.rows)))
    asked = int(document.at, 16)
    chosen = {(detail.start, detail.end, detail.vma) for detail in document.details}
    found = [at for at, row in enumerate(document.rows) if (row.start, row.end, row.vma) in chosen]
    if not found:
        found = [sum(int(row.start, 16) <= asked for row in document.rows)]
    rows = {at for place in found for at in range(place - _AROUND, place + _AROUND + 1)}
    return sorted(at for at in rows if 0 <= at < len(document.rows))


def _cell(cell: Cell | None) -> str:
    if cell is None or cell.state == "none":
        return "-"
    word = {"missing": "no", "unread": "?"}.get(cell.state, "")
    parts = (word, (cell.address or "")[2:] if cell.state == "held" else "", cell.note)
    return " ".join(part for part in parts if part)


def _detail(detail: Detail) -> Iterator[str]:
    if detail.vma is None:
        yield f"{detail.start}-{detail.end}: page-table entries that no VMA covers"
    else:
        yield f"{detail.start}-{detail.end}: vm_area_struct at {detail.vma}"
        if not detail.members:
            yield "  the vm_area_struct is not in the dump"
        for member in detail.members:
            text = f"  {member.offset:#06x}  {member.name:{_WIDE}}  {member.value:>18}  {member.meaning}"
            yield text.rstrip()
    yield ""
    yield "  from the task to the pages:"
    for step in detail.chain:
        facts = ", ".join(f"{name} {value}".strip() for name, value in step.facts.items())
        place = step.address or ""
        yield f"    {'  ' * step.level}{step.record}  {place}{'  ' if place else ''}{facts}".rstrip()
