"""Geometry of the address-space picture: a ladder of regions with a lane for each view.

Heights grow with the logarithm of size, gaps are collapsed and say how large they are. Lengths in SVG user
units, which are CSS pixels at full size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmaforensics.report.formats.html.amounts import number, short, tail
from vmaforensics.words.amounts import amount, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.report.formats.html.cards import Mark
    from vmaforensics.report.formats.html.line import Line

_ADDRESS, _NAME, _LANE, _TAG = 122, 236, 86, 132  # widths of the columns
_FIRST = _ADDRESS + _NAME
_HEAD, _BREAK = 30, 24
_PIECE = 300  # height after which a piece ends: less than a page of paper
_LEAST, _MOST, _PER_DOUBLING = 20, 64, 3
_PAGE_SHIFT = 12
_NAME_CHARACTERS, _WORD_CHARACTERS, _TAG_CHARACTERS = 21, 12, 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A piece of text: ``x`` and ``y`` are where its baseline starts or, by class, its middle or end."""

    x: int
    y: int
    text: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle."""

    x: int
    y: int
    width: int
    height: int
    kind: str


@dataclass(slots=True, kw_only=True)
class Ladder:
    """A piece of the picture. Pieces are drawn below each other without a seam; paper may break between them.

    ``height`` grows while it is drawn. ``cells`` is one path per state: a sub-path per cell.
    """

    width: int
    height: int = 0
    lanes: list[Box] = field(default_factory=list)
    bands: list[Box] = field(default_factory=list)  # behind what findings name
    strips: list[Box] = field(default_factory=list)  # what a VMA allows
    plates: list[Box] = field(default_factory=list)  # behind words that stand on a pattern
    cells: dict[str, str] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)  # y of dashed lines
    texts: list[Text] = field(default_factory=list)


def ladder(lines: Sequence[Line], views: Sequence[str], left_out: int) -> list[Ladder]:
    """The picture of ``lines``, with ``left_out`` regions behind the last of them, in pieces."""
    width = _FIRST + _LANE * len(views) + (_TAG if any(line.cards for line in lines) else 0)
    pieces = [Ladder(width=width, height=_HEAD)]
    pieces[0].texts += [
        Text(x=_FIRST + _LANE * at + _LANE // 2, y=_HEAD - 12, text=short(view, 14), kind="head")
        for at, view in enumerate(views)
    ]
    end = None
    for line in lines:
        if pieces[-1].height > _PIECE:
            pieces.append(Ladder(width=width))
        start = number(line.row.start)
        if line.skipped:
            _break(pieces[-1], f"{counted(line.skipped, 'region')} not drawn")
        elif end is not None and start is not None and start > end:
            _break(pieces[-1], f"gap of {amount(start - end)}")
        elif end is not None and start is not None and start < end:
            _break(pieces[-1], f"overlaps the one above by {amount(end - start)}")
        _region(pieces[-1], line)
        end = number(line.row.end)
    if left_out:
        _break(pieces[-1], f"{counted(left_out, 'region')} not drawn")
    for at, piece in enumerate(pieces):
        top = 0 if at else _HEAD
        piece.lanes = [
            Box(x=_FIRST + _LANE * lane + 3, y=top, width=_LANE - 6, height=piece.height - top, kind="lane")
            for lane in range(len(views))
        ]
    return pieces


def summary(lines: Sequence[Line], views: Sequence[str]) -> str:
    """What the picture shows, for those who do not see it."""
    wrong = sum(any(mark.state == "missing" for mark in line.marks) for line in lines)
    return (
        f"{counted(len(lines), 'region')} in ascending order of address, a lane for each of "
        f"{counted(len(views), 'view')}; {wrong:,} of them {'is' if wrong == 1 else 'are'} missing from a view. The "
        "table below says the same in words."
    )


def _break(piece: Ladder, text: str) -> None:
    middle = piece.height + _BREAK // 2
    piece.breaks.append(middle)
    piece.texts.append(Text(x=_ADDRESS + 12, y=middle + 4, text=text, kind="gap"))
    piece.height += _BREAK


def _region(piece: Ladder, line: Line) -> None:
    """Add the row of a region at the foot of ``piece``: its address, permissions, name, size, a cell for each view."""
    row, start, end = line.row, number(line.row.start), number(line.row.end)
    size = end - start if start is not None and end is not None and end > start else 0
    doublings = max(size >> _PAGE_SHIFT, 1).bit_length() - 1
    height = min(_LEAST + _PER_DOUBLING * doublings, _MOST)
    y = piece.height
    middle = y + height // 2 + 4
    hit = f"hit {line.cards[0].finding.severity}" if line.cards else ""
    if line.cards:
        worst = line.cards[0].finding
        piece.bands.append(Box(x=0, y=y, width=piece.width, height=height, kind=worst.severity))
        more = f" +{len(line.cards) - 1}" if len(line.cards) > 1 else ""
        tag = short(worst.rule, _TAG_CHARACTERS - len(more)) + more
        piece.texts.append(Text(x=piece.width - 8, y=middle, text=tag, kind=f"tag {worst.severity}"))
    allowed = "x" if "x" in row.perms else "w" if "w" in row.perms else "r"
    piece.strips.append(Box(x=_ADDRESS, y=y + 1, width=5, height=height - 2, kind=f"allow-{allowed}"))
    name = tail(row.name, _NAME_CHARACTERS) or ("no VMA" if row.vma is None else "")
    piece.texts += [
        Text(x=6, y=y + 14, text=short(row.start.removeprefix("0x"), 17), kind=f"address {hit}"),
        Text(x=_ADDRESS + 12, y=middle, text=short(row.perms, 4), kind="address"),
        Text(x=_ADDRESS + 46, y=middle, text=name, kind="name"),
        Text(x=_FIRST - 10, y=middle, text=amount(size) if size else "", kind="size"),
    ]
    for at, mark in enumerate(line.marks):
        _cell(piece, mark, _FIRST + _LANE * at + 3, y + 1, _LANE - 6, height - 2, middle)
    piece.height += height


def _cell(piece: Ladder, mark: Mark, x: int, y: int, width: int, height: int, middle: int) -> None:
    path = f"M{x} {y}h{width}v{height}h-{width}z"
    piece.cells[mark.state] = piece.cells.get(mark.state, "") + path
    held = mark.state == "held"
    word = mark.note if held and 0 < len(mark.note) <= _WORD_CHARACTERS else mark.word
    if mark.state in ("missing", "unread"):
        plate = 7 * len(word) + 10
        piece.plates.append(
            Box(x=x + (width - plate) // 2, y=middle - 12, width=plate, height=16, kind=f"plate-{mark.state}")
        )
    piece.texts.append(Text(x=x + width // 2, y=middle, text=word, kind=f"word {mark.state}"))
