"""Code that processes run, against the page cache of the file it is said to come from.

Executable areas of files are filled with pages of the page cache (filemap_map_pages, mm/filemap.c). A write through a
private mapping, by a debugger or by the process itself, puts an anonymous copy in the place of one
(do_cow_fault, wp_page_copy, mm/memory.c). While the page cache still has the page, both can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space import paging
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.pages.mapped_pages import read_pages
from vmaforensics.views.pages.page_tables import PteState
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.pages.uprobes import UPROBES, read_uprobes
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.structures.xarray import entries_at, is_pointer
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.views import Views

_PAGE = 4096
_BATCH = 256  # pairs of pages compared at once: 2 MiB
_MOST = 1 << 20  # pages of mapped code looked at: 4 GiB
_MOST_PAIRS = 1 << 16  # pairs of pages compared: 512 MiB
_LARGEST = 1 << 18  # pages of the largest folio: 1 GiB
_SHOWN = 8  # bytes kept from the first difference on
_BREAKPOINT, _CALL = 0xCC, 0xE8  # int3; call rel32, which x86 may put in the place of a probed nop (7.x)
_CALL_SIZE = 5


class Match(IntEnum):
    """What is known of a page of code that is not the one the page cache has."""

    EQUAL = 0
    DIFFERS = 1
    NOT_IN_DUMP = 2  # the contents of one of the two pages are not in the image
    NOT_CACHED = 3  # the page cache has no such page any more
    NOT_INDEXED = 4  # the page cache's index is not in the image
    NOT_COMPARED = 5  # there are more than are compared


TEXT = np.dtype(
    [
        ("pte", np.int64),  # row of page_tables.ptes
        ("vma_row", np.int64),
        ("va", np.uint64),
        ("pfn", np.uint64),  # the frame mapped
        ("cached", np.uint64),  # the frame in the page cache, 0 if it is not known
        ("index", np.uint64),  # pages into the file
        ("match", np.uint8),
        ("first", np.int32),  # offset in the page of the first byte that differs
        ("count", np.int32),  # bytes that differ
        ("probed", np.int32),  # of these, those at a registered uprobe
        ("breakpoints", np.int32),  # of the others, those that are int3
        ("now", np.uint8, (_SHOWN,)),  # mapped, from the first difference on
        ("was", np.uint8, (_SHOWN,)),  # in the page cache
        ("traced", np.bool_),  # a debugger is attached to the process
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPages:
    """``rows`` (dtype ``TEXT``): pages of code that are not those of the page cache, by process and address.

    ``judged`` counts all pages of mapped code that were looked up, ``unindexed`` those among them that name their
    place in the file themselves and could not be looked up in the page cache's index.
    """

    rows: NDArray[np.void]
    judged: int
    unindexed: int
    probes_known: bool  # every registered uprobe could be read


def gather_text_pages(kernel: Kernel, views: Views, log: ProblemLog) -> TextPages | None:
    """Compare the pages of executable areas of files with the page cache; None without page tables."""
    view, files = views.page_tables, views.files
    if view is None or files is None or not len(files.rows) or not len(views.vmas):
        return None
    rows, mapping = _candidates(views, view, log)
    # Most pages are those of a few libraries: each place in each file is looked up once.
    first, inverse = _distinct(mapping, rows["index"])
    frames, state = _cached(kernel, mapping[first], rows["index"][first])
    rows["cached"], rows["match"] = frames[inverse], state[inverse]
    # A page that names its own place in the file, and that the index no longer has, is leaving the page cache.
    own = _names_its_place(view, rows, mapping)
    other = (rows["match"] == Match.EQUAL) & (rows["cached"] != rows["pfn"])
    unknown = rows["match"] != Match.EQUAL
    unindexed = int((own & (rows["match"] == Match.NOT_INDEXED)).sum())
    judged = len(rows)
    keep = other | (unknown & ~own)
    rows, mapping = rows[keep], mapping[keep]
    probes, known = read_uprobes(kernel)
    _compare(kernel, rows, mapping, probes)
    _look_for_debuggers(kernel, views, rows)
    return TextPages(rows=rows, judged=judged, unindexed=unindexed, probes_known=known)


def _names_its_place(view: PageTablesView, rows: NDArray[np.void], mapping: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Does struct page say that the page is the file's, at that place?"""
    pages, at = view.pages.rows, view.ptes["page"][rows["pte"]]
    if not len(pages):
        return np.zeros(len(rows), np.bool_)
    own = (at >= 0) & pages["ok"][at] & ~pages["anon"][at] & (pages["mapping"][at] == mapping)
    index = pages["index"][at]  # of the first page that the entry maps
    with np.errstate(over="ignore"):
        inside: NDArray[np.bool_] = own & (rows["index"] - index < np.uint64(_LARGEST))
    return inside


def _distinct(mapping: NDArray[np.uint64], index: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """(positions of the first of each distinct pair, which of these each pair is)."""
    order = np.lexsort((index, mapping))
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (np.diff(mapping[order]) != 0) | (np.diff(index[order]) != 0)
    inverse = np.zeros(len(order), np.int64)
    inverse[order] = np.cumsum(fresh) - 1
    return order[fresh], inverse


def _candidates(views: Views, view: PageTablesView, log: ProblemLog) -> tuple[NDArray[np.void], NDArray[np.uint64]]:
    """(a row for every page that an executable area of a regular file has present, its ``address_space``)."""
    assert views.files is not None
    vmas, files = views.vmas, views.files.rows
    code = vmas["ok"] & ((vmas["flags"] & np.uint64(flags.VM_EXEC)) != 0) & (vmas["file_row"] >= 0)
    code &= np.isin(vmas["kind"], (Kind.FILE, Kind.SHARED_MEMORY))
    code &= files["regular"][vmas["file_row"]] & files["ok"][vmas["file_row"]]
    ptes = view.ptes
    there = (ptes["area"] >= 0) & (ptes["state"] <= PteState.PROTNONE) & (ptes["level"] <= 2)
    at = np.flatnonzero(there)
    if not len(at):
        return np.zeros(0, TEXT), np.zeros(0, np.uint64)
    vma_row = view.areas["vma_row"][ptes["area"][at]]
    mine = (vma_row >= 0) & code[vma_row]
    at, vma_row = at[mine], vma_row[mine]
    parts = (paging.span(ptes["level"][at]) // np.uint64(_PAGE)).astype(np.int64)
    last = int(np.searchsorted(np.cumsum(parts), _MOST, "right"))
    if last < len(at):
        log.add(View.PAGE_TABLES, Problem.CUT_SHORT, 0, int(ptes["where"][at[last]]), len(at) - last)
        at, vma_row, parts = at[:last], vma_row[:last], parts[:last]
    which = np.repeat(np.arange(len(at)), parts)
    number = (np.arange(len(which)) - np.repeat(np.cumsum(parts) - parts, parts)).astype(np.uint64)
    rows = np.zeros(len(which), TEXT)
    rows["pte"], rows["vma_row"] = at[which], vma_row[which]
    rows["va"] = ptes["va"][rows["pte"]] + number * np.uint64(_PAGE)
    rows["pfn"] = ptes["pfn"][rows["pte"]] + number
    vma_row = rows["vma_row"]
    with np.errstate(over="ignore"):
        rows["index"] = vmas["pgoff"][vma_row] + ((rows["va"] - vmas["start"][vma_row]) >> np.uint64(12))
    return rows, files["mapping"][vmas["file_row"][vma_row]]


def _cached(
    kernel: Kernel, mapping: NDArray[np.uint64], index: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """(frame, state) of each place in the page cache; EQUAL stands for a frame that was found."""
    state = np.full(len(mapping), Match.NOT_INDEXED, np.uint8)
    frames = np.zeros(len(mapping), np.uint64)
    cache, ok = kernel.gather("address_space", mapping, ["i_pages.xa_head"])
    entry, fine = entries_at(kernel, cache["i_pages.xa_head"], index)
    known = ok & fine
    state[known] = Match.NOT_CACHED  # nothing there, or the mark of a page that was evicted or swapped out
    at = np.flatnonzero(known & is_pointer(entry) & kernel_pointer(entry))
    frame, plausible = PageReader(kernel).frames_of(entry[at])
    at, frame = at[plausible], frame[plausible]
    # The index leads to the head of a large folio from each of its places.
    head = read_pages(kernel, frame)
    with np.errstate(over="ignore"):
        inside = index[at] - head["index"]
    right = head["ok"] & (inside < np.uint64(_LARGEST))
    frames[at] = np.where(right, frame + inside, np.uint64(0))
    state[at] = np.where(right, Match.EQUAL, Match.NOT_INDEXED)
    return frames, state


def _compare(kernel: Kernel, rows: NDArray[np.void], mapping: NDArray[np.uint64], probes: NDArray[np.void]) -> None:
    """Fill in what the contents say, a batch of pairs at a time. Contents are user memory: no excerpt keeps them."""
    host, ok = kernel.gather("address_space", mapping, ["host"])
    inode = np.where(ok, host["host"], np.uint64(0))
    todo = np.flatnonzero(rows["match"] == Match.EQUAL)
    rows["match"][todo[_MOST_PAIRS:]] = Match.NOT_COMPARED
    todo = todo[:_MOST_PAIRS]
    for low in range(0, len(todo), _BATCH):
        at = todo[low : low + _BATCH]
        with kernel.memory.untraced():
            now, fine = kernel.memory.gather(rows["pfn"][at] << np.uint64(12), _PAGE)
            was, held = kernel.memory.gather(rows["cached"][at] << np.uint64(12), _PAGE)
        rows["match"][at[~(fine & held)]] = Match.NOT_IN_DUMP
        at, now, was = at[fine & held], now[fine & held], was[fine & held]
        differ = now != was
        wrong = differ.any(axis=1)
        at, now, was, differ = at[wrong], now[wrong], was[wrong], differ[wrong]
        rows["match"][at] = Match.DIFFERS
        rows["first"][at], rows["count"][at] = differ.argmax(axis=1), differ.sum(axis=1)
        probed = _probed(now, differ, inode[at], rows["index"][at], probes)
        rows["probed"][at] = probed.sum(axis=1)
        rest = differ & ~probed
        rows["breakpoints"][at] = (rest & (now == _BREAKPOINT)).sum(axis=1)
        # What is shown is what nobody has explained, if there is any.
        show = np.where(rest.any(axis=1), rest.argmax(axis=1), rows["first"][at])
        rows["first"][at] = show
        column = np.minimum(show[:, None] + np.arange(_SHOWN), _PAGE - 1)
        rows["now"][at] = np.take_along_axis(now, column, axis=1)
        rows["was"][at] = np.take_along_axis(was, column, axis=1)


def _probed(
    now: NDArray[np.uint8],
    differ: NDArray[np.bool_],
    inode: NDArray[np.uint64],
    index: NDArray[np.uint64],
    probes: NDArray[np.void],
) -> NDArray[np.bool_]:
    """Which bytes differ because a registered probe is there: the int3, or the call that stands for it."""
    answer = np.zeros(differ.shape, np.bool_)
    probes = probes[np.isin(probes["inode"], inode)] if len(probes) else np.zeros(0, UPROBES)
    for one in np.unique(inode[np.isin(inode, probes["inode"])]).tolist():
        rows = np.flatnonzero(inode == np.uint64(one))
        offsets = probes["offset"][probes["inode"] == np.uint64(one)]
        start = index[rows] << np.uint64(12)
        low = np.searchsorted(offsets, start)
        high = np.searchsorted(offsets, start + np.uint64(_PAGE))
        count = high - low
        which = np.repeat(np.arange(len(rows)), count)
        probe = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + low[which]
        place = (offsets[probe] - start[which]).astype(np.int64)
        first = now[rows[which], place]
        answer[rows[which], place] = first == _BREAKPOINT
        for step in range(_CALL_SIZE):
            fits = (first == _CALL) & (place + step < _PAGE)
            answer[rows[which[fits]], place[fits] + step] = True
    return answer & differ


def _look_for_debuggers(kernel: Kernel, views: Views, rows: NDArray[np.void]) -> None:
    """Fill in ``traced``: does some thread of the process have a tracer (``task_struct.ptrace``)?"""
    mm = views.vmas["mm"][rows["vma_row"]]
    tasks = views.tasks[views.tasks["ok"] & np.isin(views.tasks["mm"], mm)]
    if not kernel.has("task_struct", "ptrace"):
        return
    got, ok = kernel.gather("task_struct", tasks["task"], ["ptrace"])
    rows["traced"] = np.isin(mm, tasks["mm"][ok & (got["ptrace"] != 0)])
