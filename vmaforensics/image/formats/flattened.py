"""Flattened dumps: an ELF core or a kdump file as a stream of records (``makedumpfile -F``, QEMU's kdump).

A header of 4096 bytes, then records: big-endian int64 offset and size, and the bytes that belong at that
offset of the file ``makedumpfile -R`` would make (makedumpfile.c, ``rearrange_dumpdata``). They come in any
order; where two overlap the later one holds. Here that file is never made: an index says where its bytes lie.
"""

from __future__ import annotations

import os
import struct
from array import array
from functools import partial
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.runs import begins_range, run_starts
from vmaforensics.errors import ImageUnreadableError, UnsupportedFormatError
from vmaforensics.image.source import Fetched, FileSource, Mapped, Span, take
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

HEADER_SIZE = 4096
TYPE_FLAT_HEADER = 1
_TYPE = struct.Struct(">q")
_RECORD = struct.Struct(">qq")  # offset, size; both -1: the end
_LARGEST = 1 << 62  # of the file to be
_LARGEST_HOLE = 64 << 20  # bytes of zeros that a header or a table may have in it
_MOST_OVERLAPS = 1 << 20
_BYTEWISE = 64  # items up to this size that lie in pieces are put together byte by byte


class Flattened(FileSource):
    """The file that the records in ``buffer`` make: ``lengths`` bytes at ``starts`` lie at ``places`` of it.

    The arrays are int64, sorted by ``starts``, and disjoint. What no record fills is zeros if the stream is
    ``complete``, and is not held otherwise. ``name`` is for errors.
    """

    def __init__(
        self,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        places: NDArray[np.int64],
        *,
        complete: bool,
        name: str,
    ) -> None:
        self._buffer, self._complete, self._name = buffer, complete, name
        self._size = int((starts + lengths).max(initial=0))
        # An empty record at 0 in front: every offset then has a record at or below it.
        zero = np.zeros(1, np.int64)
        self._starts = np.concatenate([zero, starts])
        self._lengths = np.concatenate([zero, lengths])
        self._places = np.concatenate([zero, places])
        ends = self._starts + self._lengths
        first = run_starts(begins_range(self._starts, ends))
        self._run_starts = self._starts[first]  # runs of records without a hole
        self._run_ends = np.append(ends[first[1:] - 1], ends[-1])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice[Any, Any, Any], /) -> memoryview:
        """Zeros where no record is. Raises :class:`UnsupportedFormatError` if that is more than 64 MiB of them."""
        start, stop, _ = part.indices(self._size)
        size = max(0, stop - start)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        into = start - int(self._starts[first])
        if into + size <= int(self._lengths[first]):
            place = int(self._places[first]) + into
            return self._buffer.data[place : place + size]
        rows = slice(first, int(np.searchsorted(self._starts, stop, side="left")))
        begin = np.maximum(self._starts[rows], start)
        length = np.minimum(self._starts[rows] + self._lengths[rows], stop) - begin
        hole = size - int(length[length > 0].sum())
        if hole > _LARGEST_HOLE:
            raise UnsupportedFormatError(
                f"{self._name}: no record of the flattened stream fills {hole:#x} of the {size:#x} bytes at offset "
                f"{start:#x}, where a header or a table should be; the file is damaged, take the dump again"
            )
        whole = bytearray(size)
        places = self._places[rows] + begin - self._starts[rows]
        for at, count, place in zip((begin - start).tolist(), length.tolist(), places.tolist(), strict=True):
            if count > 0:
                whole[at : at + count] = self._buffer.data[place : place + count]
        return memoryview(whole).toreadonly()

    def _find(
        self, offsets: NDArray[np.int64], sizes: NDArray[np.int64] | int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """``(places, whole, empty)``: where items begin, which lie in one record, and which in no record."""
        at = np.searchsorted(self._starts, offsets, side="right") - 1
        into = offsets - self._starts[at]
        length = self._lengths[at]
        whole: NDArray[np.bool_] = into + sizes <= length
        following = np.append(self._starts, np.int64(self._size))[at + 1]
        empty: NDArray[np.bool_] = (into >= length) & (offsets + sizes <= following)
        return np.where(whole, self._places[at] + into, 0), whole, empty

    def fetch(self, offsets: NDArray[np.int64], size: int) -> Fetched:
        places, whole, empty = self._find(offsets, size)
        if whole.all():
            return Fetched(self._buffer, places, whole)
        # One buffer has to hold what lies in one record, in pieces, and in none: copy this batch.
        copy = np.zeros((len(offsets), size), dtype=np.uint8)
        copy[whole] = take(self._buffer, places[whole], size) if whole.any() else 0
        ok = np.full(len(offsets), self._complete)
        ok[whole] = True
        pieced = np.flatnonzero(~whole & ~empty)
        if size <= _BYTEWISE:
            bytewise = (offsets[pieced, None] + np.arange(size)).reshape(-1)
            there, held, _ = self._find(bytewise, 1)
            copy[pieced] = np.where(held, self._buffer[there], 0).reshape(-1, size)
            ok[pieced] |= held.reshape(-1, size).all(axis=1)
        else:
            for row, at in zip(pieced.tolist(), offsets[pieced].tolist(), strict=True):
                copy[row] = np.frombuffer(self[at : at + size], dtype=np.uint8)
                ok[row] |= self._filled(at, at + size)
        return Fetched(copy.reshape(-1), np.arange(len(offsets), dtype=np.int64) * size, ok)

    def _filled(self, start: int, stop: int) -> bool:
        """Whether records fill all of ``[start, stop)``."""
        run = int(np.searchsorted(self._run_starts, start, side="right")) - 1
        return stop <= int(self._run_ends[run])

    def pieces(self, at: int, size: int, step: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        first = int(np.searchsorted(self._run_ends, at, side="right"))
        last = int(np.searchsorted(self._run_starts, at + size, side="left"))
        for run in range(first, last):
            begin, end = max(at, int(self._run_starts[run])), min(at + size, int(self._run_ends[run]))
            for low in range(begin, end, step):
                yield low, np.frombuffer(self[low : min(low + step, end)], dtype=np.uint8)

    @property
    def lossy(self) -> bool:
        return not self._complete

    def lost(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._run_ends[np.searchsorted(self._run_starts, offsets, side="right") - 1] < offsets + sizes

    def spans(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[Span]:
        places, whole, _ = self._find(offsets, sizes)
        here = np.flatnonzero(whole)
        yield Span(here, self._buffer.data, places[here])
        rest = np.flatnonzero(~whole)
        edges = zip(rest.tolist(), offsets[rest].tolist(), (offsets + sizes)[rest].tolist(), strict=True)
        parts = {row: self[at:end] for row, at, end in edges if self._complete or self._filled(at, end)}
        if parts:
            lengths = np.array([len(part) for part in parts.values()], dtype=np.int64)
            copy = memoryview(b"".join(parts.values()))
            yield Span(np.fromiter(parts, dtype=np.intp), copy, np.cumsum(lengths) - lengths)


class Dump(NamedTuple):
    """The bytes of a dump, out of the flattened stream it may come in."""

    source: FileSource
    stream: str  # how many records the stream has, in words; empty if it is none
    problems: list[str]  # a sentence for everything that is wrong with the stream


def open_flattened(path: Path, file: Mapped) -> Dump:
    """The file inside a flattened stream.

    Only record headers are read. Raises :class:`UnsupportedFormatError` if the stream cannot be believed.
    """
    if len(file) < HEADER_SIZE + _RECORD.size:
        raise UnsupportedFormatError(
            f"{path} is a flattened makedumpfile stream cut off after {counted(len(file), 'byte')}, before its first "
            "record; take the dump again"
        )
    kind = _TYPE.unpack(file[16:24])[0]
    if kind != TYPE_FLAT_HEADER:
        raise UnsupportedFormatError(
            f"{path} begins like a flattened makedumpfile stream, but its type (file offset 16) is {kind}, expected "
            f"{TYPE_FLAT_HEADER}; take the dump again"
        )
    problems: list[str] = []
    table, complete = _records(path, file, problems)
    if len(table) == 0:
        raise UnsupportedFormatError(
            f"{path} is a flattened makedumpfile stream without a record of data ({problems[0]}); take the dump again"
            if problems
            else f"{path} is a flattened makedumpfile stream without a record of data; take the dump again"
        )
    index, overlaps = _disjoint(path, table)
    if overlaps:
        problems.append(f"{counted(overlaps, 'record')} of the flattened stream overlap others; the later one was read")
    source = Flattened(file.buffer, *index.T, complete=complete, name=str(path))
    return Dump(source, counted(len(table), "record"), problems)


def _records(path: Path, file: Mapped, problems: list[str]) -> tuple[NDArray[np.int64], bool]:
    """The records as ``(n, 3)`` offset, size, place in the file, in their order there; and whether the end
    record was met."""
    size = len(file)
    if file.path is None:  # what was unpacked
        return _walk(path, lambda at: bytes(file[at : at + _RECORD.size]), size, problems)
    # Not through the mapped file: a look at every 64 KiB would make all of it resident.
    try:
        with path.open("rb", buffering=0) as stream:
            return _walk(path, partial(os.pread, stream.fileno(), _RECORD.size), size, problems)
    except OSError as error:
        raise ImageUnreadableError(f"{path} cannot be read: {error.strerror}; check the disk") from error


def _walk(path: Path, read: Callable[[int], bytes], size: int, problems: list[str]) -> tuple[NDArray[np.int64], bool]:
    """Read the record headers (``makedump_data_header`` of makedumpfile) one after the other: ``read`` gives the one
    at a place.

    Returns what :func:`_records` does, and adds to ``problems`` why it stopped before the end record. Raises
    :class:`UnsupportedFormatError` if there are more records than the size of the file allows.
    """
    most = 65536 + size // 512  # real ones have 4 KiB and more
    found = array("q")
    unpack, header = _RECORD.unpack, _RECORD.size
    at = HEADER_SIZE
    why = ""
    while not why:
        data = read(at) if at + header <= size else b""
        if len(data) < header:
            why = f"it ends at {size:#x} without an end record"
            break
        offset, length = unpack(data)
        if offset == length == -1:
            return np.array(found, dtype=np.int64).reshape(-1, 3), True
        if offset < 0 or length <= 0 or offset + length > _LARGEST:
            why = f"the record at file offset {at:#x} says it has {length} bytes for offset {offset}"
            break
        at += header
        if length > size - at:
            why = f"it ends at {size:#x}, inside the {length:,} bytes of the record at file offset {at - header:#x}"
        if at < size:
            found.extend((offset, min(length, size - at), at))
        at += length
        if len(found) > 3 * most:
            raise UnsupportedFormatError(
                f"{path} has more than {most:,} records in a flattened stream of {counted(size, 'byte')}, which no "
                "program writes; the file is damaged, take the dump again"
            )
    problems.append(f"the flattened stream is truncated or damaged: {why}; what should follow is missing")
    return np.array(found, dtype=np.int64).reshape(-1, 3), False


def _disjoint(path: Path, table: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The records sorted by offset, cut to what later ones leave of them, and how many overlap another."""
    order = np.argsort(table[:, 0], kind="stable")
    rows = table[order]
    start, end = rows[:, 0], rows[:, 0] + rows[:, 1]
    reach = np.maximum.accumulate(end)
    group = np.cumsum(np.concatenate([[True], start[1:] >= reach[:-1]])) - 1
    shared = np.bincount(group)[group] > 1
    count = int(shared.sum())
    if count == 0:
        return rows, 0
    if count > _MOST_OVERLAPS:
        raise UnsupportedFormatError(
            f"{path}: {count:,} records of the flattened stream overlap, which no program writes; the file is "
            "damaged, take the dump again"
        )
    whole = np.concatenate([rows[~shared], _painted(rows[shared], order[shared])])
    return whole[np.argsort(whole[:, 0], kind="stable")], count


def _painted(rows: NDArray[np.int64], number: NDArray[np.int64]) -> NDArray[np.int64]:
    """What each of these records, sorted by offset, shows where one with a higher ``number`` covers another."""
    records = list(zip(number.tolist(), *rows.T.tolist(), strict=True))
    edges = distinct(np.concatenate([rows[:, 0], rows[:, 0] + rows[:, 1]])).tolist()
    over: list[tuple[int, int, int, int]] = []  # those that reach here, the last of the stream on top
    shown: list[tuple[int, int, int]] = []
    at = 0
    for low, high in pairwise(edges):
        while at < len(records) and records[at][1] <= low:
            rank, start, length, place = records[at]
            heappush(over, (-rank, start, length, place))
            at += 1
        while over and over[0][1] + over[0][2] <= low:
            heappop(over)
        if over:
            _, start, _, place = over[0]
            shown.append((low, high - low, place + low - start))
    return np.array(shown, dtype=np.int64)
