r"""One of the document's tables as CSV (RFC 4180), safe to open in a spreadsheet.

The first line names the columns; lines end with CR LF; the text is UTF-8 without a byte order mark. Addresses
are hexadecimal text. Control characters, newlines too, are written as ``\xNN``, so that each row is one line.

A cell that a spreadsheet would take for a formula is given an apostrophe in front, which the spreadsheet does not
show: one whose first character, blanks aside, is ``=``, ``+``, ``-``, ``@`` or the full-width form of one. The
same is done behind a semicolon within a cell, for where that separates cells the text behind it is a cell too.
A program should read ``jsonl`` instead, which holds the text as it is.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from vmaforensics.report.document.document import Document

_FORMULA = re.compile(r"((?:^|;)\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
_NUMBER = frozenset({"pid", "size", "inode"})  # columns of numbers that are no addresses, as far as unsigned


def render_csv(document: Document, *, table: str = "findings") -> bytes:
    """The table called ``table``; see ``report/document/tables.py``. Raises ``KeyError`` for an unknown name."""
    rows = document.table(table)
    names = [column for column in rows.dtype.names or () if not column.startswith("has_")]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(names)
    writer.writerows(zip(*(_cells(rows, column) for column in names), strict=True))
    return text.getvalue().encode()


def cell(text: str) -> str:
    """``text`` without control characters, and without anything a spreadsheet would run.

    >>> cell("=1+1"), cell("a;@b")
    ("'=1+1", "a;'@b")
    """
    return _FORMULA.sub(r"\1'", printable(text))


def _cells(rows: NDArray[np.void], name: str) -> Iterable[str | int]:
    """The cells of one column; empty where the table has no value."""
    kind = rows.dtype[name].kind
    listed: list[Any] = rows[name].tolist()
    if kind == "O":
        known = {text: cell(text) for text in set(listed)}
        return map(known.__getitem__, listed)
    if kind == "M":
        return ["" if time is None else f"{time.isoformat()}Z" for time in listed]
    if kind == "b":
        return ["yes" if flag else "no" for flag in listed]
    if kind == "i":
        return ["" if number == -1 else number for number in listed]
    if name in _NUMBER:
        return listed
    given = _given(rows, name).tolist()
    return [hex(number) if here else "" for number, here in zip(listed, given, strict=True)]


def _given(rows: NDArray[np.void], name: str) -> NDArray[np.bool_]:
    """Is there an address? 0 can be one only where a range begins, a file or a set of flags does."""
    names = rows.dtype.names or ()
    if name in ("start", "end") and "has_range" in names:
        return np.asarray(rows["has_range"])
    if name in ("start", "end") and "physical" in names:  # of a match: no record has a region there
        return np.asarray(rows["end"] != 0)
    if name in ("start", "end", "flags", "pgoff"):
        return np.ones(len(rows), bool)
    return np.asarray(rows[name] != 0)
