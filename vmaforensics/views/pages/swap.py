"""Swap as smaps counts it: who else has a swapped page, and which pages of shared memory are swapped.

Encodings: arch/x86/include/asm/pgtable_64.h (swap entries), include/linux/swap.h (swap_map), mm/shmem.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.pages.page_tables import PteState
from vmaforensics.views.structures.xarray import is_node
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.views import Views
    from vmaforensics.views.vmas.files import Files

SWAP_TYPE_SHIFT = 59
_OFFSET = 14  # SWP_OFFSET_SHIFT: bits to drop below, when those of the type have been shifted out
_TYPE_BITS = 5
_HAS_CACHE, _CONTINUED = 0x40, 0x80  # SWAP_HAS_CACHE, COUNT_CONTINUED
_TMPFS_MAGIC = 0x01021994  # include/uapi/linux/magic.h
_LEVELS = 11  # 64 index bits in chunks of 6
_MOST_NODES = 1 << 18
_MOST_HOLES = 1 << 24
_LAST = np.uint64((1 << 52) - 1)


def swap_offsets(entries: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Page of the swap file that each swap entry names; kept inverted because of L1TF (__swp_offset)."""
    offsets: NDArray[np.uint64] = (~entries << np.uint64(_TYPE_BITS)) >> np.uint64(_OFFSET)
    return offsets


def swap_counts(kernel: Kernel, view: PageTablesView, rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """swp_swapcount: how many page tables hold the swap entry that each of ``rows`` of ``view.ptes`` holds.

    The kernel's own ``swap_map`` says so where there is one (up to 6.18) and the count fits its byte.
    Elsewhere it is counted: a page of private memory is held by nothing but page tables.
    """
    entry = view.ptes["entry"][rows]
    kind = entry >> np.uint64(SWAP_TYPE_SHIFT)
    offset = swap_offsets(entry)
    everywhere = view.ptes["entry"][(view.ptes["state"] == PteState.SWAP) & (view.ptes["level"] == 1)]
    place = np.uint64((1 << SWAP_TYPE_SHIFT) - (1 << (_OFFSET - _TYPE_BITS)) | 0x1F << SWAP_TYPE_SHIFT)
    known, held = np.unique(everywhere & place, return_counts=True)
    count = held[np.searchsorted(known, entry & place)].astype(np.int64) if len(known) else np.ones(len(rows), np.int64)
    at = kernel.symbols.get("swap_info")
    if at is None or not kernel.has("swap_info_struct", "swap_map") or not len(rows):
        return count
    files, ok = kernel.words(np.uint64(at) + kind * np.uint64(8), 1)
    got, fine = kernel.gather("swap_info_struct", files[:, 0], ["swap_map", "max"])
    with np.errstate(over="ignore"):
        data, read = kernel.space.gather(got["swap_map"] + offset, 1)
    told = ok & fine & read & (offset < got["max"]) & ((data[:, 0] & _CONTINUED) == 0)
    return np.where(told, data[:, 0] & ~np.uint8(_HAS_CACHE), count).astype(np.int64)


def shmem_swapped(
    kernel: Kernel, views: Views, vmas: NDArray[np.void], mm_row: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Bytes of shared memory that are swapped, in each of ``vmas``: smap_gather_stats and shmem_swap_usage.

    ``(bytes, known)``; not known where a part of the file's page cache could not be read. A private writable
    area may have copies of its own: there, only pages without an entry count.
    """
    total, told = np.zeros(len(vmas), np.int64), np.ones(len(vmas), np.bool_)
    files, view = views.files, views.page_tables
    if files is None or view is None or not len(files.rows):
        return total, told
    heads, swapped, sizes, read = _shmem_files(kernel, files.rows)
    place = vmas["file_row"]
    told = (place < 0) | read[place]
    at = np.flatnonzero(vmas["ok"] & (place >= 0) & (swapped[place] > 0))
    if not len(at):
        return total, told
    place = place[at]
    known, inverse = np.unique(place, return_inverse=True)
    owner, index, spans, lost = _values(kernel, heads[known])
    order = np.lexsort((index, owner))
    keys = owner[order].astype(np.uint64) << np.uint64(52) | np.minimum(index[order], _LAST)
    running = np.concatenate([[0], np.cumsum(spans[order])])
    first = vmas["pgoff"][at]
    length = (vmas["end"][at] - vmas["start"][at]) >> np.uint64(12)
    base = inverse.astype(np.uint64) << np.uint64(52)
    low = np.searchsorted(keys, base | np.minimum(first, _LAST))
    high = np.maximum(np.searchsorted(keys, base | np.minimum(first + np.minimum(length, _LAST), _LAST)), low)
    count = running[high] - running[low]
    whole = (first == 0) & (length << np.uint64(12) >= sizes[place])
    count = np.where(whole, swapped[place], count)
    flag = vmas["flags"][at]
    copies = ((flag & np.uint64(flags.VM_SHARED)) == 0) & ((flag & np.uint64(flags.VM_WRITE)) != 0)
    own = np.flatnonzero(copies)
    if len(own) and int((high - low)[own].sum()) <= _MOST_HOLES:
        many = (high - low)[own]
        which = np.repeat(own, many)
        value = np.arange(len(which)) - np.repeat(np.cumsum(many) - many, many) + low[which]
        va = vmas["start"][at][which] + ((index[order][value] - first[which]) << np.uint64(12))
        hole = view.entry_at(mm_row[at][which].astype(np.int32), va) < 0
        count[own] = 0
        np.add.at(count, which[hole], 1)
    total[at] = count << 12
    told[at] &= ~np.isin(inverse, lost) | (whole & ~copies)
    return total, told


def _shmem_files(
    kernel: Kernel, files: Files
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64], NDArray[np.bool_]]:
    """(root of the page cache, pages swapped, size in bytes, could be read) of every file.

    Zeros where it is not in shared memory.
    """
    none = np.zeros(len(files), np.uint64)
    if not kernel.has("shmem_inode_info", "swapped") or not kernel.has("shmem_inode_info", "vfs_inode"):
        return none, none.astype(np.int64), none, np.ones(len(files), np.bool_)
    inodes, inverse = np.unique(files["mapping"], return_inverse=True)
    mapping, ok = kernel.gather("address_space", inodes, ["host", "i_pages.xa_head"])
    inode, fine = kernel.gather("inode", mapping["host"], ["i_sb", "i_size"])
    sb, read = kernel.gather("super_block", inode["i_sb"], ["s_magic"])
    known = ok & fine & read | (inodes == 0)
    ok &= fine & read & (inodes != 0) & (sb["s_magic"] == _TMPFS_MAGIC)
    with np.errstate(over="ignore"):
        info = mapping["host"] - np.uint64(kernel.offset("shmem_inode_info", "vfs_inode"))
    got, told = kernel.gather("shmem_inode_info", info, ["swapped"])
    known &= told | ~ok
    ok &= told
    swapped = np.where(ok, got["swapped"], 0).astype(np.int64)
    heads = np.where(ok, mapping["i_pages.xa_head"], np.uint64(0))
    return heads[inverse], swapped[inverse], inode["i_size"].astype(np.uint64)[inverse], known[inverse]


def _values(
    kernel: Kernel, heads: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Every value entry (a swapped page) of the page caches with root entries ``heads``.

    (position in ``heads``, first index, pages) of each, and the positions of those of which a node could not be
    read. A value of several pages has sibling entries behind it, which are told one by one. Nodes that are met
    twice are passed over.
    """
    owner, index = np.arange(len(heads)), np.zeros(len(heads), np.uint64)
    entries, span = heads, np.ones(len(heads), np.int64)
    out: list[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]] = []
    seen, lost = np.zeros(0, np.uint64), [np.zeros(0, np.int64)]
    for _ in range(_LEVELS):
        value = (entries & np.uint64(1)) != 0
        out.append((owner[value], index[value], span[value]))
        inner = np.flatnonzero(is_node(entries))
        nodes, first = np.unique(entries[inner] - np.uint64(2), return_index=True)
        inner = inner[first]
        fresh = ~np.isin(nodes, seen)
        nodes, inner = nodes[fresh], inner[fresh]
        seen = np.union1d(seen, nodes)
        if not len(nodes) or len(seen) > _MOST_NODES:
            break
        got, ok = kernel.gather("xa_node", nodes, ["slots", "shift"])
        lost.append(owner[inner[~ok]])
        got, inner = got[ok & (got["shift"] < 60)], inner[ok & (got["shift"] < 60)]
        slots = got["slots"].reshape(len(got), -1)
        # A sibling (an internal entry below 64) stands for the slot it names.
        sibling = ((slots & np.uint64(3)) == 2) & (slots >> np.uint64(2) < slots.shape[1])
        named = np.where(sibling, slots >> np.uint64(2), np.uint64(0)).astype(np.int64)
        meant = np.where(sibling, np.take_along_axis(slots, named, axis=1), slots)
        shift = got["shift"].astype(np.uint64)[:, None]
        with np.errstate(over="ignore"):
            below = index[inner][:, None] + (np.arange(slots.shape[1], dtype=np.uint64) << shift)
        entries = np.where(sibling & is_node(meant), np.uint64(0), meant).reshape(-1)
        owner, index = np.repeat(owner[inner], slots.shape[1]), below.reshape(-1)
        span = np.repeat(np.int64(1) << shift[:, 0].astype(np.int64), slots.shape[1])
    parts = list(zip(*out, strict=True))
    return np.concatenate(parts[0]), np.concatenate(parts[1]), np.concatenate(parts[2]), np.concatenate(lost)
