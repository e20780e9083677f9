"""Where the bytes of each page of a range are, or why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.image.memory import PageState
from vmaforensics.views.pages.page_names import zero_frame
from vmaforensics.words.permissions import entry_permissions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

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
}
PRESENT, ZERO, ABSENT, NOT_RAM, SWAPPED, OTHER, NOT_MAPPED, UNKNOWN = range(len(STATES))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The pages of a range, in order: parallel arrays. ``pfn`` counts where a frame is named at all."""

    start: int
    page_size: int  # bytes
    state: NDArray[np.uint8]
    pfn: NDArray[np.uint64]
    allow: NDArray[np.uint8]
    pte_state: NDArray[np.uint8]
    level: NDArray[np.int8]  # 0: no entry
    entry: NDArray[np.uint64]

    @property
    def has_bytes(self) -> NDArray[np.bool_]:
        """Which pages' bytes are read from the dump."""
        answer: NDArray[np.bool_] = self.state == PRESENT
        return answer

    def records(self) -> Iterator[PageRecord]:
        """Runs of pages of one state."""
        framed = self.state <= NOT_RAM
        first = np.ones(len(self.state), np.bool_)
        for column in (self.state, self.allow, self.pte_state, self.level):
            first[1:] &= column[1:] == column[:-1]
        first[1:] &= ~framed[1:] | (self.pfn[1:] == self.pfn[:-1] + np.uint64(1))
        first[1:] &= self.state[1:] != SWAPPED
        first[1:] = ~first[1:]
        begin = np.flatnonzero(first)
        ends = np.append(begin[1:], len(first))
        columns = (self.state, self.pfn, self.allow, self.pte_state, self.level, self.entry)
        for at, end, state, pfn, allow, pte_state, level, entry in zip(
            begin.tolist(), ends.tolist(), *(column[begin].tolist() for column in columns), strict=True
        ):
            yield PageRecord(
                start=hex(self.start + at * self.page_size),
                pages=end - at,
                state=_NAMES[state],
                pfn=hex(pfn) if state <= NOT_RAM else None,
                perms=entry_permissions(allow, present=pte_state == PteState.PRESENT)
                if level and state <= NOT_RAM
                else None,
                level=level or None,
                entry=hex(entry) if state == SWAPPED else None,
            )


def mapped_pages(kernel: Kernel, views: Views, mm: int, start: int, end: int) -> Pages:
    """The pages of ``[start, end)`` of a process, through its page tables. Bounds are multiples of a page."""
    shift = kernel.arch.page_shift
    count = (end - start) >> shift
    state = np.full(count, NOT_MAPPED, np.uint8)
    pfn, entry = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    allow, pte_state, level = np.zeros(count, np.uint8), np.zeros(count, np.uint8), np.zeros(count, np.int8)
    pages = Pages(
        start=start,
        page_size=kernel.arch.page_size,
        state=state,
        pfn=pfn,
        allow=allow,
        pte_state=pte_state,
        level=level,
        entry=entry,
    )
    view = views.page_tables
    mm_row = int(views.mm_rows(np.array([mm], np.uint64))[0])
    if view is None or mm_row < 0:
        state[:] = UNKNOWN
        return pages
    # Below a table that could not be read nothing is known; page tables above 2 MiB entries cover more.
    lost = view.tables.take((view.tables.owner == mm_row) & ~view.tables.ok)
    reach = lost.va + kernel.arch.table_span(lost.level)
    near = (lost.va < np.uint64(end)) & (reach > np.uint64(start))
    for low, stop in zip(lost.va[near].tolist(), reach[near].tolist(), strict=True):
        state[(max(low, start) - start) >> shift : (min(stop, end) - start) >> shift] = UNKNOWN
    if view.truncated or not views.mms["ok"][mm_row] or (not view.whole[mm_row] and not len(lost)):
        state[:] = UNKNOWN
    low, high = np.searchsorted(view.ptes["mm_row"], [mm_row, mm_row + 1])
    at = view.ptes.rows_at(kernel.arch, np.array([mm_row]), np.array([start], np.uint64))[0]
    first = int(at) if at >= 0 else low + int(np.searchsorted(view.ptes["va"][low:high], np.uint64(start)))
    last = low + int(np.searchsorted(view.ptes["va"][low:high], np.uint64(end)))
    ptes = view.ptes[first:last]
    # Each entry clipped to the range, then repeated for each of its pages.
    begin = np.maximum(ptes["va"], np.uint64(start))
    stop_ = np.minimum(ptes.ends(kernel.arch), np.uint64(end))
    many = ((np.maximum(stop_, begin) - begin) >> np.uint64(shift)).astype(np.int64)
    row = np.repeat(np.arange(len(ptes)), many)
    within = (np.arange(len(row)) - np.repeat(np.cumsum(many) - many, many)).astype(np.uint64)
    place = ((begin[row] - np.uint64(start)) >> np.uint64(shift)).astype(np.int64) + within.astype(np.int64)
    one = ptes[row]
    pfn[place] = one["pfn"] + ((begin[row] - one["va"]) >> np.uint64(shift)) + within
    allow[place], pte_state[place], level[place], entry[place] = (
        one[name] for name in ("allow", "state", "level", "entry")
    )
    named = np.zeros(count, np.bool_)
    named[place] = one["state"] <= PteState.PROTNONE
    state[place] = np.where(one["state"] == PteState.SWAP, SWAPPED, OTHER)
    state[named] = _frame_states(kernel, pfn[named])
    zero = zero_frame(kernel)
    if zero is not None:
        state[named & (pfn == np.uint64(zero))] = ZERO
    return pages


def frames_pages(kernel: Kernel, start: int, end: int) -> Pages:
    """The page frames of the physical range ``[start, end)``; bounds are multiples of a page."""
    pfn = np.arange(start >> kernel.arch.page_shift, end >> kernel.arch.page_shift, dtype=np.uint64)
    none = np.zeros(len(pfn), np.uint8)
    return Pages(
        start=start,
        page_size=kernel.arch.page_size,
        state=_frame_states(kernel, pfn),
        pfn=pfn,
        allow=none,
        pte_state=none,
        level=none.view(np.int8),
        entry=np.zeros(len(pfn), np.uint64),
    )


def _frame_states(kernel: Kernel, pfns: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """What the dump has of each frame; one that is promised but cannot be read counts as absent."""
    pas = kernel.arch.bytes_of(pfns)
    known = kernel.memory.page_states(pas >> np.uint64(kernel.memory.page_shift))
    state = np.full(len(pfns), PRESENT, np.uint8)
    state[known == PageState.ABSENT], state[known == PageState.NOT_RAM] = ABSENT, NOT_RAM
    held = np.flatnonzero(state == PRESENT)
    _, ok = kernel.memory.gather(pas[held], 1)
    state[held[~ok]] = ABSENT
    return state
