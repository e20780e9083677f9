"""Where the bytes of each page of a range are, or why there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import distinct, rows_of
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I8, U8, U64, Bools
from vmaforensics.image.placed import PageState
from vmaforensics.views.pages.page_cache import cached_frames
from vmaforensics.views.pages.page_names import zero_frame
from vmaforensics.views.pages.text_match import Match
from vmaforensics.words.permissions import entry_permissions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.processes.mms import Mms

# Name of each state, and what it means; the bytes of all but the first two are written as zeros.
STATES = {
    "present": "the bytes are those of the dump",
    "zero page": "the kernel's shared page of zeros is mapped: the zeros are the contents",
    "not in the dump": "the page frame is RAM that the dump leaves out or has lost",
    "not RAM": "the page frame is none of the RAM the dump describes: memory of a device",
    "swapped": "the page is in swap",
    "other entry": "a migration, device-private, poisoned or marker entry: no page frame is named",
    "not mapped": "no page-table entry; pages of a file may be in the page cache all the same",
    "unknown": "the page table for this address is not in the dump",
    "page cache": "no page-table entry; the bytes an access would map: of the page cache, or the kernel's own vDSO",
    "untouched": "no page-table entry, and no file: the process never wrote there, and would read zeros",
}
PRESENT, ZERO, ABSENT, NOT_RAM, SWAPPED, OTHER, NOT_MAPPED, UNKNOWN, CACHED, UNTOUCHED = range(len(STATES))
_NAMES = tuple(STATES)


class PageRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Neighbouring pages of one state; their frames follow each other."""

    start: str
    pages: int
    state: str
    pfn: str | None = None  # of the first
    perms: str | None = None
    level: int | None = None  # of the page table, 1 is the lowest; on x86-64 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB
    entry: str | None = None  # of swapped pages, where one entry is one page

    def joins(self, later: PageRecord) -> bool:
        """Does ``later``, which begins where this ends, go on with the same?"""
        same = (self.state, self.perms, self.level) == (later.state, later.perms, later.level)
        if not same or self.entry or later.entry or (self.pfn is None) != (later.pfn is None):
            return False
        return self.pfn is None or later.pfn is None or int(self.pfn, 16) + self.pages == int(later.pfn, 16)


@table()
class PageSources(Table):
    """The pages of a range, in order of address; see :func:`mapped_pages` and :func:`frame_pages`."""

    address: U64  # virtual of a process's page, physical of a frame
    state: U8 = column(fill=NOT_MAPPED)
    pfn: U64  # counts where a frame is named at all
    allow: U8  # what the entries of all levels allow, as of Ptes
    pte_state: U8  # PteState
    level: I8  # of the page table with the entry; 0: no entry
    entry: U64

    @property
    def has_bytes(self) -> Bools:
        """Which pages' bytes are read from the dump."""
        answer: Bools = (self.state == PRESENT) | (self.state == CACHED)
        return answer

    @property
    def known(self) -> Bools:
        """Which pages' contents are known, be they zeros."""
        answer: Bools = np.isin(self.state, (PRESENT, ZERO, CACHED, UNTOUCHED))
        return answer

    def records(self) -> Iterator[PageRecord]:
        """Runs of pages of one state."""
        named = (self.state <= NOT_RAM) | (self.state == CACHED)  # a frame is named
        begins = begins_run(self.state, self.allow, self.pte_state, self.level) | (self.state == SWAPPED)
        begins[1:] |= named[1:] & (self.pfn[1:] != self.pfn[:-1] + np.uint64(1))
        first = run_starts(begins)
        counts = run_lasts(first, len(self)) - first + 1
        runs = self.take(first)
        for start, count, state, pfn, allow, pte_state, level, entry in zip(
            runs.address.tolist(),
            counts.tolist(),
            runs.state.tolist(),
            runs.pfn.tolist(),
            runs.allow.tolist(),
            runs.pte_state.tolist(),
            runs.level.tolist(),
            runs.entry.tolist(),
            strict=True,
        ):
            known = state <= NOT_RAM or state == CACHED
            yield PageRecord(
                start=hex(start),
                pages=count,
                state=_NAMES[state],
                pfn=hex(pfn) if known else None,
                perms=entry_permissions(allow, present=pte_state == PteState.PRESENT) if level and known else None,
                level=level or None,
                entry=hex(entry) if state == SWAPPED else None,
            )


def mapped_pages(kernel: Kernel, mms: Mms, view: PageTablesView | None, mm: int, start: int, end: int) -> PageSources:
    """The pages of ``[start, end)`` of the process of ``mm``, through its page tables.

    Bounds are multiples of a page; ``view`` is None where no page tables were read.
    """
    arch = kernel.arch
    pages = PageSources.zeros((end - start) >> arch.page_shift)
    pages.address[:] = np.uint64(start) + arch.bytes_of(np.arange(len(pages), dtype=np.uint64))
    mm_row = int(rows_of(mms.mm, np.array([mm], np.uint64))[0])
    if view is None or mm_row < 0:
        pages.state[:] = UNKNOWN
        return pages
    _mark_unread(pages, arch, mms, view, mm_row)
    rows = view.entries.within(mm_row, start, end)
    ptes = view.entries.take(slice(rows.start, rows.stop))
    # Each entry clipped to the range, then repeated for each of its pages.
    begin = np.maximum(ptes.va, np.uint64(start))
    stop = np.minimum(ptes.ends(arch), np.uint64(end))
    row, place = expand(arch.pages(np.maximum(stop, begin) - begin))
    at = arch.pages(begin - np.uint64(start))[row].astype(np.int64) + place
    pages.pfn[at] = (ptes.pfn + arch.pages(begin - ptes.va))[row] + place.astype(np.uint64)
    pages.allow[at], pages.pte_state[at] = ptes.allow[row], ptes.state[row]
    pages.level[at], pages.entry[at] = ptes.level[row], ptes.entry[row]
    pages.state[at] = np.where(ptes.state == PteState.SWAP, np.uint8(SWAPPED), np.uint8(OTHER))[row]
    named = distinct(at[(ptes.state <= PteState.PROTNONE)[row]])
    pages.state[named] = _frame_states(kernel, pages.pfn[named])
    zero = zero_frame(kernel)
    if zero is not None:
        pages.state[named[pages.pfn[named] == np.uint64(zero)]] = ZERO
    return pages


def complete(kernel: Kernel, pages: PageSources, mapping: int, first: int) -> None:
    """Say of pages without an entry what an access would have found there.

    ``mapping`` is the ``address_space`` of the file mapped, 0 for none, and ``first`` the place in it, in pages, of the
    first of ``pages``. Without a file they are zeros; a page of a file that is not in the page cache stays not mapped.
    """
    empty = np.flatnonzero(pages.state == NOT_MAPPED)
    if not mapping:
        pages.state[empty] = UNTOUCHED
        return
    with np.errstate(over="ignore"):
        index = np.uint64(first) + empty.astype(np.uint64)
    found = cached_frames(kernel, np.full(len(empty), mapping, np.uint64), index)
    held = found.match == Match.EQUAL
    at = empty[held]
    pages.pfn[at] = found.frames[held]
    state = _frame_states(kernel, found.frames[held])
    pages.state[at] = np.where(state == PRESENT, np.uint8(CACHED), state)


def complete_vdso(kernel: Kernel, pages: PageSources, data: int, first: int) -> None:
    """The same of pages of a vDSO whose image the kernel has at ``data``; ``first`` is the place of the first in it."""
    empty = np.flatnonzero(pages.state == NOT_MAPPED)
    size = np.uint64(kernel.arch.page_size)
    with np.errstate(over="ignore"):
        pas, _, known = kernel.space.translate(np.uint64(data) + (np.uint64(first) + empty.astype(np.uint64)) * size)
    at = empty[known]
    pages.pfn[at] = kernel.arch.pages(pas[known])
    state = _frame_states(kernel, pages.pfn[at])
    pages.state[at] = np.where(state == PRESENT, np.uint8(CACHED), state)


def _mark_unread(pages: PageSources, arch: Architecture, mms: Mms, view: PageTablesView, mm_row: int) -> None:
    """Set the state to UNKNOWN where page tables of the mm are not in the dump: below such a table nothing is known."""
    lost = view.tables.take((view.tables.owner == mm_row) & ~view.tables.ok)
    for low, stop in zip(lost.va.tolist(), (lost.va + arch.table_span(lost.level)).tolist(), strict=True):
        pages.state[(pages.address >= np.uint64(low)) & (pages.address < np.uint64(stop))] = UNKNOWN
    if view.truncated or not mms.ok[mm_row] or (not view.whole[mm_row] and not len(lost)):
        pages.state[:] = UNKNOWN


def frame_pages(kernel: Kernel, start: int, end: int) -> PageSources:
    """The page frames of the physical range ``[start, end)``; bounds are multiples of a page."""
    shift = kernel.arch.page_shift
    pfn = np.arange(start >> shift, end >> shift, dtype=np.uint64)
    return PageSources.of(address=kernel.arch.bytes_of(pfn), state=_frame_states(kernel, pfn), pfn=pfn)


def _frame_states(kernel: Kernel, pfns: U64) -> U8:
    """What the dump has of each frame; a frame that is promised but cannot be read counts as absent."""
    pas = kernel.arch.bytes_of(pfns)
    known = kernel.memory.page_states(pas >> np.uint64(kernel.memory.page_shift))
    state = np.full(len(pfns), PRESENT, np.uint8)
    state[known == PageState.ABSENT], state[known == PageState.NOT_RAM] = ABSENT, NOT_RAM
    held = np.flatnonzero(state == PRESENT)
    _, ok = kernel.memory.gather(pas[held], 1)
    state[held[~ok]] = ABSENT
    return state
