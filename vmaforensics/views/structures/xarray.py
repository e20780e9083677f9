"""XArrays (lib/xarray.c), which IDRs and page caches are: many at once, a gather per level.

An entry is a pointer, or a value (bit 0: in a page cache, where a page has been swapped to), or internal
(low bits 10): a node if it is above 4096, else a mark such as that of a sibling slot (include/linux/xarray.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows
from vmaforensics.columns.types import I64, U64, Bools
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import XA_NODE, Homes

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.view import View

_LEVELS = 16  # 64 index bits in chunks of 6, or of 4 (XA_CHUNK_SHIFT with CONFIG_BASE_SMALL)
_MOST_NODES = 1 << 20
_INTERNAL = np.uint64(2)


def is_node(entries: U64) -> Bools:
    """xa_is_node: which entries lead to an ``xa_node``."""
    inner: Bools = ((entries & np.uint64(3)) == _INTERNAL) & (entries > 4096)
    return inner


def is_pointer(entries: U64) -> Bools:
    """Which entries are plain pointers."""
    plain: Bools = ((entries & np.uint64(3)) == 0) & (entries != 0)
    return plain


class Pointers(NamedTuple):
    """Every pointer in some arrays."""

    which: I64  # number of the array each is in
    pointers: U64
    whole: bool  # every node was read and none left out


def all_pointers(kernel: Kernel, heads: U64, view: View, log: ProblemLog) -> Pointers:
    """Every pointer in the arrays of root entries ``heads`` (``xa_head``); problems are those of ``view``."""
    owner, entries = np.arange(len(heads)), heads
    owners, pointers = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    seen = np.zeros(0, np.uint64)
    whole = True
    for _ in range(_LEVELS):
        leaf = is_pointer(entries)
        owners.append(owner[leaf])
        pointers.append(entries[leaf])
        inner = is_node(entries)
        owner, nodes = owner[inner], entries[inner] - _INTERNAL
        if not len(nodes):
            break
        first = first_rows(nodes)
        nodes, owner = nodes[first], owner[first]
        again = np.isin(nodes, seen)
        log.add(view, Problem.CYCLE, 0, nodes[again], nodes[again])
        stale = kernel.shared(Homes).strangers(XA_NODE, nodes)
        log.add(view, Problem.STALE, 0, nodes[stale], nodes[stale])
        slots, ok = _slots(kernel, nodes)
        log.add(view, Problem.UNREADABLE, 0, nodes[~ok & ~again & ~stale])
        ok &= ~stale
        seen = distinct(seen, nodes)
        if len(seen) > _MOST_NODES:
            log.add(view, Problem.CUT_SHORT, 0, int(nodes[0]), len(seen))
            whole = False
            break
        good = ok & ~again
        whole &= bool(good.all())
        owner = np.repeat(owner[good], slots.shape[1])
        entries = slots[good].reshape(-1)
    return Pointers(np.concatenate(owners), np.concatenate(pointers), whole)


def first_pointers(kernel: Kernel, heads: U64) -> tuple[U64, U64]:
    """``(pointers, indices)``: the first pointer of each array, and the index it is at; 0 for none.

    At each level the first slot that holds a pointer or a node is taken: a node of nothing but values
    (swapped pages) before the first pointer makes it be missed. A node that cannot be read ends the search.
    """
    entries, indices = heads.copy(), np.zeros(len(heads), np.uint64)
    for _ in range(_LEVELS):
        at = np.flatnonzero(is_node(entries))
        if not len(at):
            break
        nodes = entries[at] - _INTERNAL
        slots, ok = _slots(kernel, nodes)
        shift, _ = kernel.gather_member("xa_node", "shift", nodes)
        usable = is_node(slots) | is_pointer(slots)
        slot = usable.argmax(axis=1)
        has_any = ok & usable.any(axis=1)
        entries[at] = np.where(has_any, slots[np.arange(len(at)), slot], np.uint64(0))
        with np.errstate(over="ignore"):
            indices[at] += slot.astype(np.uint64) << np.minimum(shift, np.uint64(63))
    found = is_pointer(entries) & kernel.arch.kernel_pointer(entries)
    return np.where(found, entries, np.uint64(0)), np.where(found, indices, np.uint64(0))


def entries_at(kernel: Kernel, heads: U64, indices: U64) -> tuple[U64, Bools]:
    """xa_load: ``(entries, ok)``, the entry of each array ``heads`` at the index beside it; 0 for none.

    An entry that spans several indices is found at each of them. Not ok: a node could not be read.
    """
    slots = kernel.member("xa_node", "slots")
    chunk = slots.extent // 8
    entries, ok = heads.copy(), np.ones(len(heads), np.bool_)
    # A lone entry in place of a node is at index 0.
    entries[~is_node(entries) & (indices != 0)] = 0
    for level in range(_LEVELS):
        at = np.flatnonzero(is_node(entries))
        if not len(at):
            break
        nodes = entries[at] - _INTERNAL
        shift, shift_ok = kernel.gather_member("xa_node", "shift", nodes)
        index = indices[at] >> np.minimum(shift, np.uint64(63))
        beyond = index >= chunk if level == 0 else np.zeros(len(at), np.bool_)
        entry, entry_ok = _slot(kernel, nodes, index % np.uint64(chunk))
        sibling = ((entry & np.uint64(3)) == _INTERNAL) & (entry < np.uint64(chunk << 2))  # xa_is_sibling
        target, target_ok = _slot(kernel, nodes, np.where(sibling, entry >> np.uint64(2), np.uint64(0)))
        entries[at] = np.where(beyond, np.uint64(0), np.where(sibling, target, entry))
        ok[at] &= shift_ok & (beyond | (entry_ok & (~sibling | target_ok)))
        entries[~ok] = 0
    ok &= ~is_node(entries)
    return np.where(ok, entries, np.uint64(0)), ok


def _slot(kernel: Kernel, nodes: U64, number: U64) -> tuple[U64, Bools]:
    """One slot of each node, and which could be read."""
    with np.errstate(over="ignore"):
        words, ok = kernel.words(nodes + np.uint64(kernel.offset("xa_node", "slots")) + number * np.uint64(8), 1)
    return words[:, 0], ok & kernel.arch.kernel_pointer(nodes)


def _slots(kernel: Kernel, nodes: U64) -> tuple[U64, Bools]:
    """All slots of each node, shape (nodes, slots), and which could be read."""
    slots = kernel.member("xa_node", "slots")
    with np.errstate(over="ignore"):
        words, ok = kernel.words(nodes + np.uint64(slots.offset), slots.extent // 8)
    return words, ok & kernel.arch.kernel_pointer(nodes)
