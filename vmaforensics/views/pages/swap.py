"""Swap as smaps counts it: who else has a swapped page, and which pages of shared memory are swapped.

Sources: include/linux/swap.h (swap_map), mm/shmem.c, lib/xarray.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import composite_key, distinct, first_rows, rows_of, values_at
from vmaforensics.columns.ragged import expand_ranges, sum_by
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U8, U64, Bools, U64Wide
from vmaforensics.views.structures.xarray import is_node
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.entries import Entries
    from vmaforensics.views.vmas.files import Files
    from vmaforensics.views.vmas.vmas import Vmas

_HAS_CACHE, _CONTINUED = 0x40, 0x80  # SWAP_HAS_CACHE, COUNT_CONTINUED
_TMPFS_MAGIC = 0x01021994  # include/uapi/linux/magic.h
_LEVELS = 11  # 64 index bits in chunks of 6
_MOST_NODES = 1 << 18
_MOST_HOLES = 1 << 24
_INDEX_BITS = 52  # pages of the largest file
_LAST = np.uint64((1 << _INDEX_BITS) - 1)


@table(struct="swap_info_struct")
class _SwapFiles(Table):
    """A row is a swap file (include/linux/swap.h)."""

    swap_map: U64 = member("swap_map")  # a byte per page of the swap file
    pages: U64 = member("max")


class SwapHolders(NamedTuple):
    """How many entries hold each place in swap, ascending."""

    place: U64
    holders: I64


def swap_holders(kernel: Kernel, entries: Entries) -> SwapHolders:
    """Count the entries of all page tables that hold a swapped page."""
    places = [np.zeros(0, np.uint64)]
    for _, ptes in entries.batches():
        places.append(kernel.arch.swap_place(ptes.entry[(ptes.state == PteState.SWAP) & (ptes.level == 1)]))
    return SwapHolders(*np.unique(np.concatenate(places), return_counts=True))


def swap_counts(kernel: Kernel, entry: U64, holders: SwapHolders) -> I64:
    """swp_swapcount: how many page tables hold each swap ``entry``.

    The kernel's own ``swap_map`` says so where there is one (up to 6.18) and the count fits its byte.
    Elsewhere it is counted: a page of private memory is held by nothing but page tables.
    """
    count = values_at(holders.holders, rows_of(holders.place, kernel.arch.swap_place(entry)), 1)
    at = kernel.symbols.get("swap_info")
    if at is None or not kernel.has("swap_info_struct", "swap_map") or not len(entry):
        return count.astype(np.int64)
    pointers, ok = kernel.words(np.uint64(at) + kernel.arch.swap_type(entry) * np.uint64(8), 1)
    files, file_ok = kernel.gather(_SwapFiles, pointers[:, 0])
    offset = kernel.arch.swap_offset(entry)
    with np.errstate(over="ignore"):
        data, map_ok = kernel.space.gather(files.swap_map + offset, 1)
    word = data[:, 0]
    usable = ok & file_ok & map_ok & (offset < files.pages) & ((word & _CONTINUED) == 0)
    return np.where(usable, word & ~np.uint8(_HAS_CACHE), count).astype(np.int64)


class ShmemSwap(NamedTuple):
    """What of VMAs of shared memory is swapped."""

    sizes: I64  # bytes of each VMA
    known: Bools  # False where a part of the file's page cache could not be read


def shmem_swapped(kernel: Kernel, entries: Entries, files: Files, vmas: Vmas, mm_row: I64) -> ShmemSwap:
    """What of shared memory is swapped, in each of ``vmas``: smap_gather_stats and shmem_swap_usage.

    ``mm_row`` is that of the process each VMA is shown for. A private writable VMA may have copies of its own: there,
    only pages without an entry count.
    """
    page_shift = np.uint64(kernel.arch.page_shift)
    total = np.zeros(len(vmas), np.int64)
    shmem = _shmem_files(kernel, files)
    known = (vmas.file_row < 0) | values_at(shmem.ok, vmas.file_row)
    at = np.flatnonzero(vmas.ok & (values_at(shmem.swapped, vmas.file_row) > 0))
    if not len(at):
        return ShmemSwap(total, known)
    asked = vmas.take(at)
    file_row, which = np.unique(asked.file_row, return_inverse=True)
    values = _value_entries(kernel, shmem.heads[file_row])
    keys = composite_key(values.owner, values.place, _INDEX_BITS)
    running = np.concatenate([[0], np.cumsum(values.pages)])
    length = (asked.end - asked.start) >> page_shift
    low = np.searchsorted(keys, composite_key(which, asked.pgoff, _INDEX_BITS))
    high = np.searchsorted(keys, composite_key(which, asked.pgoff + np.minimum(length, _LAST), _INDEX_BITS))
    high = np.maximum(high, low)
    whole = (asked.pgoff == 0) & (length << page_shift >= shmem.size[asked.file_row])
    count = np.where(whole, shmem.swapped[asked.file_row], running[high] - running[low])
    copies = ((asked.flags & np.uint64(flags.VM_SHARED)) == 0) & ((asked.flags & np.uint64(flags.VM_WRITE)) != 0)
    private = np.flatnonzero(copies)
    if int((high - low)[private].sum()) <= _MOST_HOLES:
        row, value = expand_ranges(low[private], high[private])
        vma = private[row]
        va = asked.start[vma] + ((values.place[value] - asked.pgoff[vma]) << page_shift)
        hole = entries.rows_at(mm_row[at[vma]], va) < 0
        count[private] = sum_by(row, hole, len(private))
    total[at] = count << kernel.arch.page_shift
    known[at] &= ~np.isin(which, values.unread) | (whole & ~copies)
    return ShmemSwap(total, known)


class _ShmemFiles(NamedTuple):
    """What is known of the shared memory behind files, row by row; zeros for other files."""

    heads: U64  # root of the page cache
    swapped: I64  # pages
    size: U64  # bytes
    ok: Bools  # could it be read, whatever it is?


@table(struct="address_space")
class _Caches(Table):
    """A row is a file's address_space (include/linux/fs.h)."""

    host: U64 = member("host")
    head: U64 = member("i_pages.xa_head")


@table(struct="inode")
class _Inodes(Table):
    """A row is the inode of an address_space."""

    sb: U64 = member("i_sb")
    size: U64 = member("i_size")


def _shmem_files(kernel: Kernel, files: Files) -> _ShmemFiles:
    """What shmem_inode_info says of each of ``files`` that lies on a tmpfs (include/linux/shmem_fs.h)."""
    none = np.zeros(len(files), np.uint64)
    if not kernel.has("shmem_inode_info", "swapped") or not kernel.has("shmem_inode_info", "vfs_inode"):
        return _ShmemFiles(none, none.astype(np.int64), none, np.ones(len(files), np.bool_))
    mapping, which = np.unique(files.mapping, return_inverse=True)
    caches, cache_ok = kernel.gather(_Caches, mapping)
    inodes, inode_ok = kernel.gather(_Inodes, caches.host)
    magic, sb_ok = kernel.gather_member("super_block", "s_magic", inodes.sb)
    ok = cache_ok & inode_ok & sb_ok
    shmem = ok & (mapping != 0) & (magic == _TMPFS_MAGIC)
    with np.errstate(over="ignore"):
        info = caches.host - np.uint64(kernel.offset("shmem_inode_info", "vfs_inode"))
    swapped, info_ok = kernel.gather_signed("shmem_inode_info", "swapped", info)
    known = (ok | (mapping == 0)) & (info_ok | ~shmem)
    shmem &= info_ok
    return _ShmemFiles(
        heads=np.where(shmem, caches.head, np.uint64(0))[which],
        swapped=np.where(shmem, swapped, 0)[which],
        size=inodes.size[which],
        ok=known[which],
    )


class _ValueEntries(NamedTuple):
    """Entries of page caches that stand for swapped pages, by owner and index."""

    owner: I64  # position of the page cache
    place: U64  # pages into the file
    pages: I64
    unread: I64  # positions of the page caches of which a node could not be read


@table(struct="xa_node")
class _Nodes(Table):
    """A row is a node of a page cache's index (include/linux/xarray.h)."""

    shift: U8 = member("shift")  # bits of an index that lie below the node
    slots: U64Wide = member("slots")


def _value_entries(kernel: Kernel, heads: U64) -> _ValueEntries:
    """Every value entry (a swapped page) of the page caches with root entries ``heads``.

    A value of several pages has sibling entries behind it, which are counted one by one. Nodes that are met twice are
    passed over.
    """
    owner, index = np.arange(len(heads)), np.zeros(len(heads), np.uint64)
    entries, span = heads, np.ones(len(heads), np.int64)
    owners, indices, spans = [], [], []
    seen, unread = np.zeros(0, np.uint64), [np.zeros(0, np.int64)]
    for _ in range(_LEVELS):
        value = (entries & np.uint64(1)) != 0
        owners.append(owner[value])
        indices.append(index[value])
        spans.append(span[value])
        inner = np.flatnonzero(is_node(entries))
        inner = inner[first_rows(entries[inner])]
        inner = inner[~np.isin(entries[inner], seen)]
        seen = distinct(seen, entries[inner])
        if not len(inner) or len(seen) > _MOST_NODES:
            break
        nodes, ok = kernel.gather(_Nodes, entries[inner] - np.uint64(2))
        unread.append(owner[inner[~ok]])
        usable = ok & (nodes.shift < 60)
        nodes, inner = nodes.take(usable), inner[usable]
        many = nodes.slots.shape[1]
        shift = nodes.shift.astype(np.uint64)[:, None]
        with np.errstate(over="ignore"):
            below = index[inner][:, None] + (np.arange(many, dtype=np.uint64) << shift)
        entries = _without_siblings(nodes.slots).reshape(-1)
        owner, index = np.repeat(owner[inner], many), below.reshape(-1)
        span = np.repeat(np.int64(1) << nodes.shift.astype(np.int64), many)
    every, places = np.concatenate(owners), np.concatenate(indices)
    order = np.lexsort((places, every))
    return _ValueEntries(every[order], places[order], np.concatenate(spans)[order], np.concatenate(unread))


def _without_siblings(slots: U64) -> U64:
    """Entries with siblings (internal entries below 64) replaced by what the slot they name holds, unless a node."""
    sibling = ((slots & np.uint64(3)) == 2) & (slots >> np.uint64(2) < slots.shape[1])
    named = np.where(sibling, slots >> np.uint64(2), np.uint64(0)).astype(np.int64)
    meant = np.where(sibling, np.take_along_axis(slots, named, axis=1), slots)
    return np.where(sibling & is_node(meant), np.uint64(0), meant)
