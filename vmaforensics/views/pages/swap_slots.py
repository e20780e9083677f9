"""What swap says of its slots: how many hold each, and which page of the swap cache is its copy.

``swap_info[]`` has a ``swap_map`` for each swap file, a byte a slot (include/linux/swap.h; up to 6.18): how many
page-table entries and files hold it, and whether the swap cache has a page of it. The cache itself is an index by slot,
in pieces of 64 MiB (``swapper_spaces``, mm/swap_state.c); a page in it says of which slot it is. Kernels without
``swap_map`` have both in tables of clusters (``swap_tables.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import distinct, rows_of
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, column, member, table
from vmaforensics.columns.types import I64, U8, U32, U64, Bools
from vmaforensics.views.pages.frame_kinds import FrameKind
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.pages.swap_tables import TableSlots, has_tables, read_tables, swap_files
from vmaforensics.views.structures.xarray import entries_at

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.frame_kinds import FrameKinds
    from vmaforensics.views.pages.page_tables import PageTablesView

_TYPE_SHIFT = np.uint64(58)  # SWP_TYPE_SHIFT: five bits of type above those of an XArray's value
_OFFSETS = np.uint64((1 << 58) - 1)
_SPACE_SHIFT = np.uint64(14)  # SWAP_ADDRESS_SPACE_SHIFT
_MOST_SLOTS = 1 << 28  # 1 TiB
_MOST_ENTRIES = 1 << 12  # kept of slots that count otherwise
HAS_CACHE, CONTINUED, BAD, SHMEM = 0x40, 0x80, 0x3F, 0xBF  # SWAP_MAP_SHMEM without SWAP_HAS_CACHE


@table(struct="swap_info_struct")
class _Files(Table):
    max: U32 = member("max")
    map: U64 = member("swap_map")


@table()
class SwapSlots(Table):
    """A slot that is in use or that an entry of a page table names; by place."""

    place: U64  # type and offset as in a swp_entry_t
    word: U8  # of swap_map, or what a table of clusters says in that form
    entries: I64  # of page tables that name it
    least: Bools  # files may hold it too, and are counted alike


@table()
class SwapUses(Table):
    """An entry of a page table that names a slot which counts other than there are entries."""

    mm_row: I64 = column(fill=-1)
    va: U64
    where: U64  # physical address of the entry
    place: U64


@table()
class SwapCached(Table):
    """A small page of the swap cache; by frame."""

    pfn: U64
    page: U64  # its struct page
    place: U64  # that it says it is of
    found: U64  # what the cache has at that place


class SwapView(NamedTuple):
    """Slots of swap and pages of its cache."""

    slots: SwapSlots
    uses: SwapUses
    cached: SwapCached
    whole: bool  # every swap_map was read


def gather_swap(kernel: Kernel, page_tables: PageTablesView, kinds: FrameKinds) -> SwapView | None:
    """None where no swap file is known, or its ``swap_map`` is not of this kernel."""
    known = swap_files(kernel)
    mapped, in_tables = kernel.has("swap_info_struct", "swap_map"), has_tables(kernel)
    if known is None or not (mapped or in_tables):
        return None
    infos, ok = known
    files = len(infos)
    every = np.concatenate([np.zeros(0, np.uint64), *(use.place for use in _uses(kernel, page_tables, files))])
    held, counts = np.unique(every, return_counts=True)
    tables = None if mapped else read_tables(kernel, infos)
    used, words, whole = _maps(kernel, infos) if tables is None else _in_tables(*tables)
    places = distinct(held, used)
    slots = SwapSlots.of(place=places, least=np.full(len(places), tables is not None))
    row = rows_of(used, places)
    slots.word[row >= 0] = words[row[row >= 0]]
    row = rows_of(held, places)
    slots.entries[row >= 0] = counts[row[row >= 0]]
    asked = slots.place[disagreeing(slots)]
    uses = [use.take(np.isin(use.place, asked)) for use in _uses(kernel, page_tables, files)] if len(asked) else []
    return SwapView(
        slots=slots,
        uses=SwapUses.concatenate([SwapUses.zeros(0), *uses]).take(slice(0, _MOST_ENTRIES)),
        cached=_cached(kernel, kinds, files, None if tables is None else tables),
        whole=whole and bool(ok.all()),
    )


def disagreeing(slots: SwapSlots) -> Bools:
    """Which slots count other than entries of page tables name them. Those of files, bad ones and those that go on
    elsewhere are left out."""
    plain = ((slots.word & np.uint8(CONTINUED)) == 0) & ((slots.word & ~np.uint8(HAS_CACHE)) != BAD)
    count = (slots.word & ~np.uint8(HAS_CACHE)).astype(np.int64)
    differs: Bools = plain & np.where(slots.least, count < slots.entries, count != slots.entries)
    return differs


def _in_tables(slots: TableSlots, whole: bool) -> tuple[U64, U8, bool]:
    """The same as :func:`_maps`. A count that is not known, or has no room in a word, goes on elsewhere."""
    place = slots.file.astype(np.uint64) << _TYPE_SHIFT | slots.offset
    word = np.where((slots.holders < 0) | (slots.holders >= BAD), CONTINUED, slots.holders).astype(np.uint8)
    word |= np.where(slots.cached, np.uint8(HAS_CACHE), np.uint8(0))
    return place, word, whole


def _uses(kernel: Kernel, page_tables: PageTablesView, files: int) -> list[SwapUses]:
    """Entries of swapped pages in all page tables; migration entries and markers have types behind those of files."""
    found = []
    for entries in (page_tables.entries, page_tables.taskless):
        for _, ptes in entries.batches():
            mine = ptes.take((ptes.state == PteState.SWAP) & (ptes.level == 1))
            kind = kernel.arch.swap_type(mine.entry)
            mine, kind = mine.take(kind < files), kind[kind < files]
            found.append(
                SwapUses.of(
                    len(mine),
                    mm_row=mine.mm_row if entries is page_tables.entries else np.full(len(mine), -1),
                    va=mine.va,
                    where=mine.where,
                    place=kind << _TYPE_SHIFT | kernel.arch.swap_offset(mine.entry),
                )
            )
    return found


def _maps(kernel: Kernel, files: U64) -> tuple[U64, U8, bool]:
    """(place of each slot that is in use, its word of swap_map, was every map read?)."""
    rows, ok = kernel.gather(_Files, files)
    page = kernel.arch.page_size
    counts = np.where(ok, np.minimum(rows.max, _MOST_SLOTS), 0).astype(np.int64)
    kind, number = expand(-(-counts // page))
    places, words, whole = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint8)], bool(ok.all())
    for row, part in zip(kind.tolist(), number.tolist(), strict=True):
        with np.errstate(over="ignore"):
            where = rows.map[row : row + 1] + np.uint64(part * page)
        size = min(page, int(counts[row]) - part * page)
        data, read = kernel.space.gather(where, size)
        whole &= bool(read[0])
        if not read[0]:
            continue
        at = np.flatnonzero(data[0])
        places.append(np.uint64(row) << _TYPE_SHIFT | (at + part * page).astype(np.uint64))
        words.append(data[0][at])
    return np.concatenate(places), np.concatenate(words), whole


def _cached(kernel: Kernel, kinds: FrameKinds, files: int, tables: tuple[TableSlots, bool] | None) -> SwapCached:
    """The small pages of the swap cache, with what its index has where they say they are."""
    at = kernel.symbols.get("swapper_spaces")
    if tables is None and (at is None or not kernel.has("address_space", "i_pages.xa_head")):
        return SwapCached.zeros(0)
    pfns = kinds.all_of(FrameKind.SWAP_CACHE)
    reader = PageReader(kernel)
    rows, ok = reader.read(pfns)
    head = kernel.types.constant("PG_head")
    large = (rows.head & np.uint64(1)) != 0
    if head is not None and 0 <= head < 64:
        large |= (rows.flags & np.uint64(1 << head)) != 0
    small = ok & ~large & (rows.private >> _TYPE_SHIFT < files)
    pfns, place = pfns[small], rows.private[small]
    if tables is not None:
        slots, whole = tables
        # Where a table is not in the image, what it has is not known.
        return _cached_in_tables(reader, pfns, place, slots) if whole and len(slots.file) else SwapCached.zeros(0)
    spaces, read = kernel.words(np.uint64(at or 0) + np.uint64(8) * (place >> _TYPE_SHIFT), 1)
    offset = place & _OFFSETS
    with np.errstate(over="ignore"):
        space = spaces[:, 0] + (offset >> _SPACE_SHIFT) * np.uint64(kernel.sizeof("address_space"))
    heads, known = kernel.gather_member("address_space", "i_pages.xa_head", space)
    # By offset in the file, in newer kernels by offset in the piece (swap_cache_index).
    inside = offset & np.uint64((1 << int(_SPACE_SHIFT)) - 1)
    (first, first_ok), (second, second_ok) = (entries_at(kernel, heads, index) for index in (offset, inside))
    mine = reader.addresses(pfns)
    found = np.where((first == mine) | (second == 0), first, second)
    keep = read & known & first_ok & second_ok
    return SwapCached(pfn=pfns[keep], page=mine[keep], place=place[keep], found=found[keep])


def _cached_in_tables(reader: PageReader, pfns: U64, place: U64, tables: TableSlots) -> SwapCached:
    """The same where the index is in the tables of clusters."""
    at = tables.file.astype(np.uint64) << _TYPE_SHIFT | tables.offset
    order = np.argsort(at, kind="stable")
    row = rows_of(at[order], place)
    held = order[np.maximum(row, 0)]
    there = (row >= 0) & tables.cached[held]
    found = np.where(there, reader.addresses(tables.frame[held]), np.uint64(0))
    return SwapCached(pfn=pfns, page=reader.addresses(pfns), place=place, found=found)
