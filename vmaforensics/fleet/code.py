"""What of each process can be executed, by content: to find the same code, and code that few machines have.

A page is known by the first 128 bits of its BLAKE2b hash. A region is known by the hashes of all its pages and their
places, and only where every page of it is in the image: which pages of a library happen to be in memory differs from
machine to machine, so that regions are compared page by page.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, PteState
from vmaforensics.columns.lookup import distinct, last_rows_of, sort_order, values_at
from vmaforensics.columns.ragged import expand, sum_by
from vmaforensics.columns.runs import begins_run, run_starts
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U64, Bools
from vmaforensics.views.pages.ptes import Ptes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.analysis import Analysis

_MOST: Final = 1 << 18  # frames that are hashed: a gigabyte of code in pages of 4 KiB
_MOST_PAGES: Final = 1 << 22  # places that such frames are mapped at
_CHUNK: Final = 1 << 10  # frames read at once
_HASH: Final = 16  # bytes


@table()
class CodePages(Table):
    """A row is a page of some process that may be executed, by region and address."""

    region: I64 = column(fill=-1)  # row of the regions, -1: in none
    mm: U64
    index: I64  # of the page: in the file of its region, or from where the memory began
    low: U64  # the two halves of its hash
    high: U64
    ok: Bools  # its bytes are in the image
    zero: Bools  # and all zero


class Code(NamedTuple):
    """``pages`` as above; of each region how many are in page tables, how many hashed, and its content or ""."""

    pages: CodePages
    mapped: NDArray[np.int64]
    hashed: NDArray[np.int64]
    content: list[str]
    left_out: int  # pages that were not hashed


def read_code(analysis: Analysis, regions: NDArray[np.void]) -> Code:
    """The executable pages of every process; ``regions`` are those of the document (``report/document/tables.py``)."""
    pages, left_out = _pages(analysis, regions)
    count = len(regions)
    inside = pages.take(pages.region >= 0)
    hashed = inside.take(inside.ok)
    mapped = sum_by(inside.region, np.ones(len(inside), np.int64), count)
    present = sum_by(hashed.region, np.ones(len(hashed), np.int64), count)
    size = regions["size"].astype(np.int64) // analysis.kernel.arch.page_size
    low, high = (_summed(hashed, half, count) for half in (hashed.low, hashed.high))
    whole = (present == size) & (size > 0)
    content = [f"{a:016x}{b:016x}" if ok else "" for a, b, ok in zip(low.tolist(), high.tolist(), whole, strict=True)]
    return Code(pages, mapped, present, content, left_out)


def _summed(pages: CodePages, half: U64, count: int) -> U64:
    """Per region the sum of its pages' hashes, each times an odd number of its place."""
    total = np.zeros(count, np.uint64)
    np.add.at(total, pages.region, half * (pages.index.astype(np.uint64) * np.uint64(2) + np.uint64(1)))
    return total


def _pages(analysis: Analysis, regions: NDArray[np.void]) -> tuple[CodePages, int]:
    view, arch = analysis.views.page_tables, analysis.kernel.arch
    if view is None:
        return CodePages.zeros(0), 0
    may = ALLOW_EXECUTE | ALLOW_USER
    ptes = Ptes.concatenate(
        batch.ptes.take((batch.ptes.state == PteState.PRESENT) & ((batch.ptes.allow & may) == may))
        for batch in view.entries.batches()
    )
    counts = ptes.pages(arch)
    within = np.cumsum(counts) <= _MOST_PAGES
    row, place = expand(np.where(within, counts, 0))
    places = place.astype(np.uint64)
    va, frame = ptes.va[row] + arch.bytes_of(places), ptes.pfn[row] + places
    mm = analysis.views.mms.mm[ptes.mm_row[row]]
    region = _region_of(regions, mm, va)
    begin = values_at(regions["start"], region)
    index = np.where(region >= 0, arch.pages(va - begin + values_at(regions["pgoff"], region)), arch.pages(va))
    frames, of_frame = np.unique(frame, return_inverse=True)
    low, high, ok, zero = _hashes(analysis, frames[:_MOST])
    known = np.minimum(of_frame, max(len(low) - 1, 0))
    pages = CodePages.of(
        region=region,
        mm=mm,
        index=index.astype(np.int64),
        low=values_at(low, known),
        high=values_at(high, known),
        ok=values_at(ok, known).astype(np.bool_) & (of_frame < len(low)),
        zero=values_at(zero, known).astype(np.bool_),
    )
    left_out = int((of_frame >= len(low)).sum()) + int(counts[~within].sum())
    return pages.take(sort_order(pages.mm, pages.index)), left_out


def _region_of(regions: NDArray[np.void], mm: U64, va: U64) -> NDArray[np.int64]:
    """Row of the region that holds each address of each mm, -1 where none does."""
    order = sort_order(regions["mm"], regions["start"])
    owners = distinct(np.concatenate([regions["mm"], mm]))
    # A number for each pair of mm and address that sorts as they do: ranks of what there is.
    starts = distinct(np.concatenate([regions["start"], va]))
    scale = np.int64(len(starts) + 1)
    keys = np.searchsorted(owners, regions["mm"][order]) * scale + np.searchsorted(starts, regions["start"][order])
    row = last_rows_of(keys, np.searchsorted(owners, mm) * scale + np.searchsorted(starts, va))
    found = np.where(row >= 0, order[np.maximum(row, 0)] if len(order) else -1, -1)
    holds = (values_at(regions["mm"], found) == mm) & (va < values_at(regions["end"], found))
    return np.where((found >= 0) & holds, found, -1)


def _hashes(analysis: Analysis, frames: U64) -> tuple[U64, U64, Bools, Bools]:
    """The halves of each frame's hash, whether it could be read, and whether it holds but zeros."""
    arch, memory = analysis.kernel.arch, analysis.kernel.memory
    digests = np.zeros((len(frames), _HASH), np.uint8)
    ok, zero = np.zeros(len(frames), np.bool_), np.zeros(len(frames), np.bool_)
    for at in range(0, len(frames), _CHUNK):
        data, ok[at : at + _CHUNK] = memory.gather(arch.bytes_of(frames[at : at + _CHUNK]), arch.page_size)
        zero[at : at + _CHUNK] = ~data.any(axis=1)
        joined = b"".join(hashlib.blake2b(page, digest_size=_HASH).digest() for page in data)
        digests[at : at + _CHUNK] = np.frombuffer(joined, np.uint8).reshape(-1, _HASH)
    halves = digests.view(">u8").astype(np.uint64)
    return halves[:, 0], halves[:, 1], ok, zero


def each_content(pages: CodePages, file: NDArray[np.int64]) -> tuple[CodePages, NDArray[np.int64]]:
    """Each content of each place of each file once, and how many address spaces have it; ``file`` numbers them."""
    order = sort_order(file, pages.index, pages.low, pages.high, pages.mm)
    rows, files = pages.take(order), file[order]
    begins = begins_run(files, rows.index, rows.low, rows.high)
    first = run_starts(begins)
    mms = begins | begins_run(rows.mm)
    return rows.take(first), np.add.reduceat(mms, first, dtype=np.int64) if len(first) else np.zeros(0, np.int64)
