"""The cache of executable memory (mm/execmem.c, since 6.13): which parts of it were given back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows
from vmaforensics.views.indices.maple_nodes import MAX_INDEX, ROOT_NODE, NodeTypes, take_apart
from vmaforensics.views.stacks.modules import Part

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel

_DEEPEST: Final = 31  # MAPLE_HEIGHT_MAX
_MOST: Final = 1 << 16  # nodes


def given_back(kernel: Kernel) -> Part:
    """Ranges of ``execmem_cache.free_areas``, sorted; none where there is no such cache, or it cannot be read."""
    none = Part(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    cache = kernel.symbols.get("execmem_cache")
    if cache is None or not kernel.has("execmem_cache", "free_areas.ma_root"):
        return none
    root, ok = kernel.gather_member("execmem_cache", "free_areas.ma_root", np.array([cache], np.uint64))
    return (_ranges(kernel, int(root[0])) or none) if ok[0] else none


def _ranges(kernel: Kernel, root: int) -> Part | None:
    """Every range of a maple tree that has an entry; None if a node could not be read."""
    starts, ends = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    types = NodeTypes.of(kernel)
    if (root & 3) != int(ROOT_NODE):
        return Part(starts[0], ends[0]) if not root else None
    enodes, low, high = np.array([root], np.uint64) & ~ROOT_NODE, np.zeros(1, np.uint64), np.array([MAX_INDEX])
    seen = np.zeros(0, np.uint64)
    for _ in range(_DEEPEST):
        node, kind, valid = types.decode(enodes)
        words, ok = kernel.words(node, types.size // 8)
        if not (valid & ok & ~np.isin(node, seen)).all() or len(first_rows(node)) < len(node) or len(seen) > _MOST:
            return None
        seen = distinct(seen, node)
        parts = take_apart(types, kind, words, high)
        row, slot = np.nonzero((np.arange(parts.slots.shape[1])[None, :] <= parts.end[:, None]) & (parts.slots != 0))
        entry, last = parts.slots[row, slot], parts.pivots[row, slot]
        with np.errstate(over="ignore"):
            before = parts.pivots[row, np.maximum(slot - 1, 0)] + np.uint64(1)
        first: U64 = np.where(slot > 0, before, low[row])
        leaf = kind[row] == types.leaf_64
        starts.append(first[leaf])
        ends.append(last[leaf] + np.uint64(1))
        enodes, low, high = entry[~leaf], first[~leaf], last[~leaf]
        if not len(enodes):
            break
    start, end = np.concatenate(starts), np.concatenate(ends)
    order = np.argsort(start)
    return Part(start[order], end[order])
