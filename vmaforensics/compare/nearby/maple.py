"""The nodes of a maple tree around what findings name: the ways there from the root, and the neighbours on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.compare.nearby.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.compare.nearby.wrong_words import WrongWords
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.indices.maple_nodes import MapleNodes
    from vmaforensics.views.views import Views

_DEPTH = 31  # MAPLE_HEIGHT_MAX
_LEAVES = 4  # leaves drawn for one range
_SLOTS = 8  # slots of a leaf drawn
_TOP = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """A slot of a leaf: ``word`` is where it is, ``value`` what it holds, ``low`` to ``high`` what it covers."""

    leaf: int
    word: int
    value: int
    low: int
    high: int


def maple_nodes(kernel: Kernel, views: Views, mm: int, wrong: WrongWords, most: int) -> tuple[Node, ...]:
    """At most ``most`` nodes: the tree itself, the ways from its root to the leaves and nodes that ``wrong`` names,
    the slots named there, and neighbours; each after the one above it."""
    nodes, size = views.maple_nodes, kernel.sizeof("maple_node")
    own = np.flatnonzero(nodes.mm == np.uint64(mm))
    room = most - 1
    path: dict[int, None] = {}
    for row in _named(nodes, own, wrong, size):
        way = [row]
        while nodes.parent[way[-1]] >= 0 and len(way) <= _DEPTH:
            way.append(int(nodes.parent[way[-1]]))
        fresh = [above for above in way if above not in path]
        if len(path) + len(fresh) > room * 2 // 3:
            break
        path |= dict.fromkeys(fresh)
    if not path:  # nothing is named: the root
        path |= dict.fromkeys(own[nodes.parent[own] < 0][:1].tolist())
    slots = [slot for row in path if nodes.leaf[row] for slot in _slots(nodes, row, wrong)]
    slots = slots[: max(room - len(path), 0)]
    drawn = dict(path)
    for row in _siblings(nodes, own, path):
        if len(drawn) + len(slots) >= room:
            break
        drawn.setdefault(row)
    tree = _tree(kernel, views, mm, wrong)
    names = {kernel.types.constant(f"maple_{name}"): f"maple_{name}" for name in ("leaf_64", "range_64", "arange_64")}
    shown = {slot.word for slot in slots}
    out = [tree]
    for row in sorted(drawn, key=lambda row: (int(nodes.depth[row]), int(nodes.low[row]), row)):
        address, parent = int(nodes.address[row]), int(nodes.parent[row])
        end = int(nodes.end[row]) + 1
        out.append(
            Node(
                address=hex(address),
                parent=tree.address if parent < 0 else hex(int(nodes.address[parent])),
                kind=names.get(int(nodes.kind[row]), "maple_node"),
                start=hex(int(nodes.low[row])),
                end=hex(int(nodes.high[row]) + 1),
                entries=int((nodes.slots[row, :end] != 0).sum()),
                wrong=wrong.text(address, size, without=shown),
            )
        )
    out += [
        Node(
            address=hex(slot.value or slot.word),
            parent=hex(int(nodes.address[slot.leaf])),
            kind="vm_area_struct" if slot.value else "empty slot",
            start=hex(slot.low),
            end=hex(slot.high + 1),
            entries=0,
            wrong=wrong.text(slot.word, 1),
        )
        for slot in slots
    ]
    return tuple(out)


def _tree(kernel: Kernel, views: Views, mm: int, wrong: WrongWords) -> Node:
    """The ``struct maple_tree``; what is wrong with the whole mm_struct or with ``ma_root`` is shown at it."""
    root = int(views.mms.ma_root[int(views.mm_rows(np.array([mm], np.uint64))[0])])
    where = mm + kernel.offset("mm_struct", "mm_mt.ma_root")
    return Node(
        address=hex(mm + kernel.offset("mm_struct", "mm_mt")),
        parent=None,
        kind="maple_tree",
        start="0x0",
        end=hex(_TOP + 1),
        entries=int(root != 0),
        wrong=wrong.text(mm, 1, also=where),
    )


def _named(nodes: MapleNodes, own: NDArray[np.intp], wrong: WrongWords, size: int) -> Iterator[int]:
    """Nodes that hold a wrong word, then leaves that cover a range of a finding."""
    address, leaf = nodes.address[own], nodes.leaf[own]
    for word in wrong.addresses:
        inside = (address <= np.uint64(word)) & (np.uint64(word) - address < np.uint64(size))
        yield from own[inside][:1].tolist()
    for start, end in wrong.ranges:
        covers = leaf & (nodes.low[own] <= np.uint64(end - 1)) & (nodes.high[own] >= np.uint64(start))
        yield from own[covers][:_LEAVES].tolist()


def _slots(nodes: MapleNodes, row: int, wrong: WrongWords) -> list[_Slot]:
    """The slots of a leaf that a finding's range or a wrong word names, and one on either side."""
    end = int(nodes.end[row]) + 1
    high = nodes.pivots[row, :end].tolist()
    low = [int(nodes.low[row]), *(last + 1 for last in high[:-1])]
    base = int(nodes.address[row]) + int(nodes.slot_offset[row])
    words = set(wrong.addresses)
    hits = [
        at
        for at in range(end)
        if base + 8 * at in words or any(start <= high[at] and low[at] < stop for start, stop in wrong.ranges)
    ]
    wanted = sorted({at + step for at in hits[:_SLOTS] for step in (-1, 0, 1) if 0 <= at + step < end})
    return [
        _Slot(leaf=row, word=base + 8 * at, value=int(nodes.slots[row, at]), low=low[at], high=high[at])
        for at in wanted[: _SLOTS + 2]
    ]


def _siblings(nodes: MapleNodes, own: NDArray[np.intp], path: dict[int, None]) -> Iterator[int]:
    """The other children of the nodes on the way, the nearest first."""
    parent = nodes.parent[own]
    for row in path:
        if nodes.parent[row] >= 0:
            beside = own[parent == nodes.parent[row]]
            away = np.abs(nodes.parent_slot[beside] - nodes.parent_slot[row])
            yield from beside[np.argsort(away, kind="stable")][1:].tolist()
