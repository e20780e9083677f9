"""The page-table entries of one process, each with its page and the VMA that claims it.

Built for one process at a time from columns; ``report/formats/page_runs.py`` renders them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.checks.pages.page_marks import entry_marks, mark_texts
from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.runs import begins_range, begins_run, run_lasts, run_numbers, run_starts
from vmaforensics.views.pages.map_counts import MapCounts
from vmaforensics.views.pages.page_names import Owner, owners, page_flag_names, set_flags
from vmaforensics.views.pages.ptes import Ptes
from vmaforensics.words.permissions import entry_permissions, vma_permissions
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.columns.types import I32, U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.map_ranges import MapRanges
    from vmaforensics.views.pages.mapped_pages import Pages
    from vmaforensics.views.views import Views

_STATES = {
    PteState.PRESENT: "present",
    PteState.PROTNONE: "prot_none",
    PteState.SWAP: "swap",
    PteState.OTHER: "other",
}


class PageRun(msgspec.Struct, frozen=True, kw_only=True):
    """One entry, or neighbouring entries that are equal except for their frames.

    ``entry``, ``pfn``, ``swap`` and ``index`` are those of the first; indices go up by one a page, and so do
    frames and places in the swap file where ``consecutive``. Addresses, frames, indices and entries are
    hexadecimal strings.
    """

    start: str
    end: str
    pages: int  # of the CPU
    entry: str
    state: str
    level: int  # of the page table, 1 is the lowest; on x86-64 1: 4 KiB, 2: 2 MiB, 3: 1 GiB
    pfn: str | None
    consecutive: bool
    swap: str | None  # type:offset
    perms: str  # over all levels
    owner: str
    mapping: str | None
    index: str | None
    mapcount: int | None
    flags: tuple[str, ...]
    vma: str | None
    area: str
    marks: tuple[str, ...]


class _Vma(NamedTuple):
    """What is said of the VMA of a run."""

    address: str | None  # of its vm_area_struct
    text: str


def page_runs(kernel: Kernel, views: Views, rows: range, *, each: bool = False) -> Iterator[PageRun]:
    """``rows`` of the page-table entries (of one mm), joined to runs unless ``each``. They are read as they are asked
    for."""
    view = views.page_tables
    if view is None or not len(rows):
        return
    counts = MapCounts(kernel, view.pages)
    left = Ptes.zeros(0)  # of the last run so far: it may go on
    for _, ptes in view.entries.between(rows.start, rows.stop):
        joined = Ptes.concatenate([left, ptes]) if len(left) else ptes
        runs, last = _runs(kernel, views, counts, joined, each=each)
        yield from runs[:-1]
        left = joined.take(slice(last, None))
    yield from _runs(kernel, views, counts, left, each=each).runs


class _Runs(NamedTuple):
    runs: list[PageRun]
    last: int  # row of the entry with which the last begins


def _runs(kernel: Kernel, views: Views, map_counts: MapCounts, ptes: Ptes, *, each: bool) -> _Runs:
    """The runs of some entries."""
    view = views.page_tables
    assert view is not None
    arch = view.arch
    # What is worked out of every entry: a run is of entries that have it in common.
    owner, marks = owners(kernel, ptes, view.pages), entry_marks(views, ptes)
    pages = view.pages.take_or_fill(ptes.page_row)
    counts = np.full(len(ptes), -1, np.int64)
    counts[pages.ok] = map_counts.of_pages(ptes.page_row[pages.ok])
    place = np.where(ptes.state == PteState.SWAP, arch.swap_offset(ptes.entry), ptes.pfn)
    begins = np.ones(len(ptes), np.bool_)
    if not each:
        begins = _begins(arch, ptes, pages) | begins_run(owner, marks, counts, _plain(arch, ptes))
    # Frames, and places in swap, that do not follow on those of the entry before.
    breaks = run_numbers(begins_range(place, place + ptes.pages(arch).astype(np.uint64)))
    first = run_starts(begins)
    last = run_lasts(first, len(ptes))
    end = ptes.va[last] + ptes.sizes(arch)[last]
    names, bits = page_flag_names(kernel), kernel.types.constant("__NR_PAGEFLAGS") or 64
    vmas = _vmas(views, view.ranges, distinct(ptes.range_row[first]))
    consecutive = (breaks[last] == breaks[first]).tolist()
    entries, pages = ptes.take(first), pages.take(first)
    columns = zip(
        entries.va.tolist(),
        end.tolist(),
        entries.entry.tolist(),
        entries.state.tolist(),
        entries.level.tolist(),
        entries.pfn.tolist(),
        entries.allow.tolist(),
        entries.range_row.tolist(),
        arch.swap_type(entries.entry).tolist(),
        place[first].tolist(),
        consecutive,
        owner[first].tolist(),
        marks[first].tolist(),
        counts[first].tolist(),
        pages.ok.tolist(),
        pages.mapping.tolist(),
        pages.index.tolist(),
        pages.flags.tolist(),
        strict=True,
    )
    runs = [
        PageRun(
            start=hex(va),
            end=hex(stop),
            pages=(stop - va) >> arch.page_shift,
            entry=hex(entry),
            state=_STATES[PteState(state)],
            level=level,
            pfn=hex(pfn) if state <= PteState.PROTNONE else None,
            consecutive=follows,
            swap=f"{swap_file}:{at:#x}" if state == PteState.SWAP else None,
            perms=entry_permissions(allow, present=state == PteState.PRESENT),
            owner=Owner(own).label,
            mapping=hex(mapping) if ok and mapping else None,
            index=hex(index) if ok and mapping else None,
            mapcount=count if count >= 0 else None,
            flags=set_flags(names, word, bits) if ok else (),
            vma=vmas[range_row].address,
            area=vmas[range_row].text,
            marks=mark_texts(mark),
        )
        for (
            va,
            stop,
            entry,
            state,
            level,
            pfn,
            allow,
            range_row,
            swap_file,
            at,
            follows,
            own,
            mark,
            count,
            ok,
            mapping,
            index,
            word,
        ) in columns
    ]
    return _Runs(runs, int(first[-1]))


def _begins(arch: Architecture, ptes: Ptes, pages: Pages) -> Bools:
    """Where an entry, or its page, does not go on with what the entry before was."""
    begins = begins_run(ptes.state, ptes.level, ptes.allow, ptes.range_row, pages.flags, pages.mapping)
    begins |= begins_range(ptes.va, ptes.ends(arch))
    return begins | (pages.ok & begins_range(pages.index, pages.index + ptes.pages(arch).astype(np.uint64)))


def _plain(arch: Architecture, ptes: Ptes) -> U64:
    """What must be equal within a run: the attributes of entries, without the frame; of swapped pages, the file."""
    entry, state = ptes.entry, ptes.state
    parts = [arch.attributes(entry), arch.swap_type(entry)]
    return np.select([state <= PteState.PROTNONE, state == PteState.SWAP], parts, entry)


def _vmas(views: Views, ranges: MapRanges, rows: I32) -> dict[int, _Vma]:
    """What is said of the VMA of each range, by row of ``ranges``; -1 is no range."""
    known = {-1: _Vma(None, "in no area")}
    vmas = views.vmas
    for row in rows[rows >= 0].tolist():
        at = int(ranges.vma_row[row])
        address = hex(vmas.vma[at])
        if at < 0 or not vmas.ok[at]:
            known[row] = _Vma(address, f"{int(ranges.start[row]):x}-{int(ranges.end[row]):x} ?")
            continue
        bounds = f"{int(vmas.start[at]):x}-{int(vmas.end[at]):x}"
        permissions, name = vma_permissions(int(vmas.flags[at])), printable(views.names[at])
        known[row] = _Vma(address, f"{bounds} {permissions} {name}".rstrip())
    return known
