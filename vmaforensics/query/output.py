"""Results as text, CSV and JSON. Unsigned numbers of 64 bits are addresses, and shown in hexadecimal."""

from __future__ import annotations

import csv
import io
from itertools import chain, count
from typing import TYPE_CHECKING

from vmaforensics.report.document.json_text import json_text
from vmaforensics.report.formats.csv_ import cell
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.query.engine import Result

_WIDEST = 80  # characters of a cell as text
_MEASURED = 1000  # rows that tell how wide columns are


def as_text(result: Result) -> Iterator[str]:
    """Columns under their names."""
    rows = result.rows
    first = [row for _, row in zip(range(_MEASURED), rows, strict=False)]
    shown = [_texts(result, row) for row in first]
    widths = [
        max(len(name), *(len(row[at]) for row in shown)) if shown else len(name) for at, name in enumerate(result.names)
    ]
    if result.names:
        yield _line(result.names, widths)
        yield _line(["-" * width for width in widths], widths)
    for texts in shown:
        yield _line(texts, widths)
    for row in rows:
        yield _line(_texts(result, row), widths)


def as_csv(result: Result) -> Iterator[str]:
    """RFC 4180, safe to open in a spreadsheet."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([cell(name) for name in result.names])
    for row in result.rows:
        writer.writerow([_csv(value, hexadecimal=at) for value, at in zip(row, result.addresses, strict=True)])
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def as_json(result: Result) -> Iterator[str]:
    """An array of objects, a line each. Of columns with one name, those behind the first have a number behind it."""
    before, names = "[", list[str]()
    for name in result.names:
        numbered = (f"{name}_{number}" for number in count(1))
        names.append(next(free for free in chain([name], numbered) if free not in names))
    for row in result.rows:
        values = {
            name: _json(value, hexadecimal=at) for name, value, at in zip(names, row, result.addresses, strict=True)
        }
        yield f"{before}\n{json_text(values).decode()}"
        before = ","
    yield "\n]\n" if before == "," else "[]\n"


def _line(texts: list[str], widths: list[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip() + "\n"


def _texts(result: Result, row: tuple[object, ...]) -> list[str]:
    texts = [_text(value, hexadecimal=at) for value, at in zip(row, result.addresses, strict=True)]
    return [text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…" for text in texts]


def _text(value: object, *, hexadecimal: bool) -> str:
    if value is None:
        return ""
    if hexadecimal and isinstance(value, int):
        return hex(value)
    return printable(str(value))


def _csv(value: object, *, hexadecimal: bool) -> object:
    if isinstance(value, int | float) and not hexadecimal:
        return value
    text = _text(value, hexadecimal=hexadecimal)
    return text if hexadecimal else cell(text)


def _json(value: object, *, hexadecimal: bool) -> object:
    if hexadecimal and isinstance(value, int):
        return hex(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 53:
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else printable(str(value))
