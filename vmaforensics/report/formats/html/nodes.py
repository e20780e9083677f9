"""Geometry of the picture of an index around what is wrong with it: the tree indented, the list as a chain."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmaforensics.report.formats.html.amounts import short
from vmaforensics.report.formats.html.ladder import Box, Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmaforensics.compare.nearby.node import Node

_MOST_NODES = 60
_INDENT, _DEEPEST = 30, 10
_BOX, _HEIGHT, _STEP = 330, 42, 56
_SAID, _SAID_CHARACTERS = 380, 46  # room for what is wrong, right of a node


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everything to draw; ``links`` is the data of one path. ``wrong`` repeats in full what a box has room for
    the beginning of only."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    texts: tuple[Text, ...]
    links: str
    wrong: tuple[Node, ...]
    left_out: int


def picture(index: str, nodes: Sequence[Node]) -> Picture | None:
    """The nodes of an index; None if there are none."""
    placed = list(_placed(nodes, chain="list" in index))
    if not placed:
        return None
    kept = _kept(placed)
    boxes: list[Box] = []
    texts: list[Text] = []
    links: list[str] = []
    at_of = {
        id(node): (min(depth, _DEEPEST) * _INDENT + 4, row * _STEP + 6) for row, (node, depth, _) in enumerate(kept)
    }
    for node, _, parent in kept:
        x, y = at_of[id(node)]
        boxes.append(Box(x=x, y=y, width=_BOX, height=_HEIGHT, kind="wrong" if node.wrong else "node"))
        texts += _inside(node, x, y)
        if parent is not None and id(parent) in at_of:
            px, py = at_of[id(parent)]
            if px == x:  # a chain
                links.append(f"M{x + 20} {py + _HEIGHT}V{y - 1}m-4 -6l4 6l4 -6")
            else:
                links.append(f"M{px + 14} {py + _HEIGHT}V{y + _HEIGHT // 2}H{x - 1}m-6 -4l6 4l-6 4")
    said = _SAID if any(node.wrong for node, _, _ in kept) else 0
    return Picture(
        width=max(x for x, _ in at_of.values()) + _BOX + said + 8,
        height=len(kept) * _STEP,
        boxes=tuple(boxes),
        texts=tuple(texts),
        links="".join(links),
        wrong=tuple(node for node, _, _ in kept if node.wrong),
        left_out=len(placed) - len(kept),
    )


def _inside(node: Node, x: int, y: int) -> Iterator[Text]:
    entries = "" if node.entries <= 0 else "1 entry" if node.entries == 1 else f"{node.entries:,} entries"
    yield Text(x=x + 10, y=y + 17, text=short(node.kind, 22), kind="kind")
    yield Text(x=x + _BOX - 10, y=y + 17, text=short(node.address, 19), kind="right")
    bounds = f"{node.start.removeprefix('0x')}–{node.end.removeprefix('0x')}"
    yield Text(x=x + 10, y=y + 33, text=short(bounds, 35), kind="range")
    yield Text(x=x + _BOX - 10, y=y + 33, text=entries, kind="right")
    lines = textwrap.wrap(short(node.wrong, 400), _SAID_CHARACTERS)
    if len(lines) > 2:
        lines = [lines[0], short(lines[1] + " …", _SAID_CHARACTERS)]
    for at, line in enumerate(lines):
        top = y + 26 if len(lines) == 1 else y + 18 + 16 * at
        yield Text(x=x + _BOX + 14, y=top, text=("✗ " if at == 0 else "   ") + line, kind="said")


def _placed(nodes: Sequence[Node], *, chain: bool) -> Iterator[tuple[Node, int, Node | None]]:
    """(node, depth, parent) from the roots down, children in the order of the document; each node once, whatever
    the links say. The links of a list are not a depth."""
    by_address = {node.address: node for node in reversed(nodes)}
    children: dict[str, list[Node]] = {}
    roots = []
    for node in nodes:
        if node.parent is None or node.parent not in by_address or node.parent == node.address:
            roots.append(node)
        else:
            children.setdefault(node.parent, []).append(node)
    seen: set[int] = set()
    for start in (*roots, *nodes):  # what no root leads to, because links form a ring, starts at its first node
        stack: list[tuple[Node, int, Node | None]] = [(start, 0, None)]
        while stack:
            node, depth, parent = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            yield node, 0 if chain else depth, parent
            stack += [(child, depth + 1, node) for child in reversed(children.get(node.address, []))]


def _kept(placed: list[tuple[Node, int, Node | None]]) -> list[tuple[Node, int, Node | None]]:
    """All, or where there are too many: what is wrong, the way to it, and then the rest in order."""
    if len(placed) <= _MOST_NODES:
        return placed
    above = {id(node): parent for node, _, parent in placed}
    wanted: set[int] = set()
    for node, _, _ in placed:
        step: Node | None = node if node.wrong else None
        while step is not None and id(step) not in wanted:
            wanted.add(id(step))
            step = above[id(step)]
    ranked = sorted(range(len(placed)), key=lambda at: (id(placed[at][0]) not in wanted, at))
    return [placed[at] for at in sorted(ranked[:_MOST_NODES])]
