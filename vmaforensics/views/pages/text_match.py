"""The contents of pages of code beside those of the page cache, byte by byte."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.ragged import expand, expand_ranges
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, I64, U8, U64, Bools, U8Wide

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.uprobes import Uprobes

SHOWN = 8  # bytes kept from the first difference on
_BATCH = 256  # pairs of pages compared at once: 2 MiB
_MOST_PAIRS = 1 << 16  # pairs of pages compared: 512 MiB


class Match(IntEnum):
    """What is known of a page of code that is not the one the page cache has."""

    EQUAL = 0
    DIFFERS = 1
    NOT_IN_DUMP = 2  # the contents of one of the two pages are not in the image
    NOT_CACHED = 3  # the page cache has no such page any more
    NOT_INDEXED = 4  # the page cache's index is not in the image
    NOT_COMPARED = 5  # there are more than are compared


@table()
class TextPages(Table):
    """A row is a page of code that is not the one the page cache has there, by process and address."""

    pte_row: I64  # row of PageTablesView.entries
    vma_row: I64  # row of Views.vmas
    va: U64
    pfn: U64  # the frame mapped
    cached: U64  # the frame in the page cache, 0 if it is not known
    index: U64  # pages into the file
    match: U8  # Match
    first: I32  # offset in the page of the first byte that differs
    count: I32  # bytes that differ
    probed: I32  # of these, those at a registered uprobe
    breakpoints: I32  # of the others, those that are a breakpoint
    now: U8Wide  # mapped, from the first difference on
    was: U8Wide  # in the page cache
    traced: Bools  # a debugger is attached to the process


def compare_pages(kernel: Kernel, pages: TextPages, mapping: U64, probes: Uprobes) -> None:
    """Fill in what the contents say of those ``pages`` that have a match of EQUAL, a batch of pairs at a time.

    ``mapping`` are the address spaces of their files. Contents are user memory: no excerpt keeps them.
    """
    arch = kernel.arch
    inode, _ = kernel.gather_member("address_space", "host", mapping)
    todo = np.flatnonzero(pages.match == Match.EQUAL)
    pages.match[todo[_MOST_PAIRS:]] = Match.NOT_COMPARED
    todo = todo[:_MOST_PAIRS]
    for low in range(0, len(todo), _BATCH):
        at = todo[low : low + _BATCH]
        with kernel.memory.untraced():
            now, now_ok = kernel.memory.gather(arch.bytes_of(pages.pfn[at]), arch.page_size)
            was, was_ok = kernel.memory.gather(arch.bytes_of(pages.cached[at]), arch.page_size)
        both = now_ok & was_ok
        pages.match[at[~both]] = Match.NOT_IN_DUMP
        at, now, was = at[both], now[both], was[both]
        differ = now != was
        wrong = differ.any(axis=1)
        at, now, was, differ = at[wrong], now[wrong], was[wrong], differ[wrong]
        pages.match[at] = Match.DIFFERS
        pages.count[at] = differ.sum(axis=1)
        probed = differ & probed_bytes(arch, now, inode[at], pages.index[at], probes)
        pages.probed[at] = probed.sum(axis=1)
        rest = differ & ~probed
        pages.breakpoints[at] = (rest & arch.breakpoints(now)).sum(axis=1)
        # What is shown is what nobody has explained, if there is any.
        first = np.where(rest.any(axis=1), rest.argmax(axis=1), differ.argmax(axis=1))
        pages.first[at] = first
        shown = np.minimum(first[:, None] + np.arange(SHOWN), arch.page_size - 1)
        pages.now[at] = np.take_along_axis(now, shown, axis=1)
        pages.was[at] = np.take_along_axis(was, shown, axis=1)


def probed_bytes(arch: Architecture, code: U8, inode: U64, index: U64, probes: Uprobes) -> Bools:
    """Which bytes of pages of ``code`` are of registered probes.

    ``code`` has shape ``(pages, bytes of a page)``; ``inode`` and ``index`` say where in which file each page belongs.
    """
    found = np.zeros(code.shape, np.bool_)
    for file in np.intersect1d(inode, probes.inode).tolist():
        rows = np.flatnonzero(inode == np.uint64(file))
        offsets = probes.offset[probes.inode == np.uint64(file)]
        start = arch.bytes_of(index[rows])
        low, high = np.searchsorted(offsets, start), np.searchsorted(offsets, start + np.uint64(arch.page_size))
        which, probe = expand_ranges(low, high)
        row, place = rows[which], (offsets[probe] - start[which]).astype(np.int64)
        within, step = expand(arch.probe_sizes(code[row, place]))
        row, place = row[within], place[within] + step
        inside = place < arch.page_size
        found[row[inside], place[inside]] = True
    return found
