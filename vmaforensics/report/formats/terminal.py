"""Lines for a terminal or a pipe: pieces with a style, wrapped, set in tables; inert whatever they hold."""

from __future__ import annotations

import textwrap
from functools import cache
from typing import TYPE_CHECKING

from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PLAIN_WIDTH = 100  # columns of prose where no terminal says otherwise

# What each style looks like, in rich's words. A style never carries what the text does not say as well.
_LOOKS = {
    "critical": "bold white on red",
    "high": "bold red",
    "medium": "bold yellow",
    "low": "cyan",
    "info": "blue",
    "good": "bold green",
    "heading": "bold",
    "label": "dim",
    "mark": "bold",
    "command": "green",
}

Piece = str | tuple[str, str]  # text, or text and the name of its style


class Page:
    """Collects the lines of a page.

    Control characters in what is put in are written out (see ``printable``), so neither a name from an image
    nor a path can act on the terminal or begin a line of its own; nothing is read as markup.

    ``width`` is that of a terminal; None stands for a pipe: prose is wrapped at 100 columns there, and
    tables are as wide as what they hold.
    """

    def __init__(self, *, width: int | None = None, color: bool = False) -> None:
        self.width = max(width or PLAIN_WIDTH, 40)
        self._bounded = width is not None
        self._color = color
        self._lines: list[str] = []

    def line(self, *pieces: Piece) -> None:
        """One line; it is not wrapped."""
        self._lines.append("".join(self._styled(*_pair(piece)) for piece in pieces).rstrip())

    def wrapped(self, label: str, text: str, *, style: str = "", look: str = "") -> None:
        """Prose under each other, to the right of ``label``, whose style is ``style``; the prose's is ``look``.
        Long words (paths, addresses) stay whole, so that they can be copied."""
        label = printable(label)
        lines = textwrap.wrap(
            printable(text),
            self.width,
            initial_indent=label,
            subsequent_indent=" " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for at, text in enumerate(lines or [label]):
            self.line((text[: len(label)], style if at == 0 else ""), (text[len(label) :], look))

    def heading(self, text: str) -> None:
        """A title with a rule under it."""
        self.line((text, "heading"))
        self.line(("-" * len(text), "label"))

    def table(
        self, rows: Sequence[Sequence[Piece]], right: set[int] | None = None, *, indent: int = 0, whole: bool = False
    ) -> None:
        """Columns as wide as their widest cell; those in ``right`` end at the same column. On a terminal that
        is too narrow the widest columns are cut, with an ellipsis in the middle, unless ``whole``: half an
        address is none."""
        cells = [[(printable(text), style) for text, style in map(_pair, row)] for row in rows]
        columns = max(map(len, cells), default=0)
        widths = [max(_cells(row[at][0]) for row in cells if len(row) > at) for at in range(columns)]
        if self._bounded and not whole:
            _narrow(widths, self.width - indent - 2 * (columns - 1))
        for row in cells:
            pieces: list[Piece] = [" " * indent]
            for at, (text, style) in enumerate(row):
                text = _cut(text, widths[at])
                pad = " " * (widths[at] - _cells(text))
                pieces += [pad, (text, style)] if right and at in right else [(text, style), pad]
                pieces.append("  ")
            self.line(*pieces[:-1], "")

    def gap(self) -> None:
        """An empty line, unless there is one."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def text(self) -> str:
        """All lines, each ended by a newline."""
        return "".join(f"{line}\n" for line in self._lines)

    def _styled(self, text: str, style: str) -> str:
        text = printable(text)
        if not self._color or not style or not text.strip():
            return text
        return _ansi(text, _LOOKS[style])


def _pair(piece: Piece) -> tuple[str, str]:
    return (piece, "") if isinstance(piece, str) else piece


def _ansi(text: str, look: str) -> str:
    from rich.color import ColorSystem

    return _style(look).render(text, color_system=ColorSystem.STANDARD)  # type: ignore[attr-defined, no-any-return]


@cache
def _style(look: str) -> object:
    from rich.style import Style

    return Style.parse(look)


def _cells(text: str) -> int:
    """Columns a terminal needs for ``text``."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _narrow(widths: list[int], room: int) -> None:
    """Take from the widest columns until all fit, but leave each something to show."""
    while sum(widths) > room:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= 12:
            return
        others = [width for at, width in enumerate(widths) if at != widest]
        widths[widest] = max(max([12, *others]) - 1, room - sum(others), 12)


def _cut(text: str, width: int) -> str:
    if _cells(text) <= width:
        return text
    kept = list(_fitting(text, width // 2))
    tail = list(_fitting(text[::-1], width - 1 - _cells("".join(kept))))
    return "".join(kept) + "…" + "".join(reversed(tail))


def _fitting(text: str, width: int) -> Iterator[str]:
    for char in text:
        width -= _cells(char)
        if width < 0:
            return
        yield char
