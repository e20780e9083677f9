"""The kernel's own symbol table, decoded from its read-only data (kernel/kallsyms.c, scripts/kallsyms.c).

The tables are found by their structure alone and every step checks itself against another table, so no
order, alignment or encoding is chosen by release: each is tried, and what does not fit is dropped.

=============  ============================================================================================
4.19 to 6.3    offsets, relative_base, num_syms, names, markers, [seqs_of_names,] token_table, token_index
6.4 to 6.19    num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs_of_names
7.0 and later  the same, without relative_base; aligned to 4 bytes instead of 8
=============  ============================================================================================

Addresses are ``base + offset`` (6.15 to 6.19); up to 6.14 an offset >= 0 is an absolute (per-CPU) value and
a negative one stands for ``base - 1 - offset``; from 7.0 an offset counts from its own place in the table.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Tokens 0x30 to 0x39 stand for themselves: every digit occurs in some symbol name.
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_GROUP = 256  # names between two markers
_MAX_NAME = 2 + 512  # length field and KSYM_NAME_LEN
_MAX_SYMBOLS = 1 << 23
_MOST_RUNS = 1 << 16  # places tried as the beginning of the markers
_REACH = 24 << 20  # bytes before the token table in which the other tables must lie


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Byte offsets of the tables within one buffer, and what they turned out to be."""

    token_table: int
    token_index: int
    markers: int
    marker_width: int  # bytes; 8 up to 4.19
    names: int
    count: int
    offsets: int
    num_syms: int
    relative_base: int | None  # the value; None: offsets count from their own place


class Kallsyms:
    """Names, types and addresses of every symbol.

    ``addresses`` is uint64 of shape ``(n,)`` in table order; names are one NUL-separated blob. Where
    groups of names could not be read, ``lost`` counts the symbols that are missing.
    """

    def __init__(self, addresses: NDArray[np.uint64], blob: bytes, starts: NDArray[np.int64], lost: int) -> None:
        self.addresses = addresses
        self.lost = lost
        self._blob = blob  # b"\0Tname\0Tname\0", each name led by its type character
        self._found: dict[str, list[int]] = {}
        self._starts = starts  # of each symbol's type character, ascending
        self.tables: Tables | None = None  # what it was decoded from, counted from ``place``
        self.place = 0

    @classmethod
    def of(cls, table: dict[str, int]) -> Kallsyms:
        """Symbols from a mapping of names to addresses."""
        names = [b"?" + name.encode() + b"\0" for name in table]
        starts = np.cumsum([1, *map(len, names)], dtype=np.int64)[: len(names)]
        return cls(np.array(list(table.values()), np.uint64), b"\0" + b"".join(names), starts, 0)

    def __len__(self) -> int:
        return len(self.addresses)

    def find(self, name: str) -> list[int]:
        """Addresses of every symbol called ``name``, in table order; static ones may share a name."""
        if name not in self._found:
            self._found[name] = self._search(name)
        return self._found[name]

    def _search(self, name: str) -> list[int]:
        found = []
        needle = name.encode() + b"\0"
        at = self._blob.find(needle)
        while at >= 0:
            if at >= 2 and self._blob[at - 2] == 0:
                index = int(np.searchsorted(self._starts, at - 1))
                found.append(int(self.addresses[index]))
            at = self._blob.find(needle, at + 1)
        return found

    def get(self, name: str) -> int | None:
        """Address of the first symbol called ``name``."""
        found = self.find(name)
        return found[0] if found else None

    def shifted(self, by: int) -> Kallsyms:
        """The same symbols with ``by`` (modulo 2**64) added to every address."""
        moved = self.addresses + np.uint64(by % (1 << 64))
        found = Kallsyms(moved, self._blob, self._starts, self.lost)
        found.tables, found.place = self.tables, (self.place + by) % (1 << 64)
        return found

    def name_of(self, address: int) -> str | None:
        """Name of the first symbol at exactly ``address``."""
        hits = np.flatnonzero(self.addresses == np.uint64(address))
        if not len(hits):
            return None
        start = int(self._starts[hits[0]])
        return self._blob[start + 1 : self._blob.index(b"\0", start)].decode("ascii", "replace")

    def sha256(self, moved: int, image_start: int) -> str:
        """A hash of names and addresses that tells tables apart; ``moved`` bytes are taken off addresses that lie in
        the kernel image, which begins at ``image_start`` at the lowest."""
        mapped = self.addresses >= np.uint64(image_start)
        as_linked = self.addresses - np.where(mapped, np.uint64(moved % (1 << 64)), np.uint64(0))
        return hashlib.sha256(self._blob + as_linked.tobytes()).hexdigest()

    def items(self) -> Iterator[tuple[int, str, str]]:
        """(address, type character, name) of every symbol, in table order."""
        for address, start in zip(self.addresses.tolist(), self._starts.tolist(), strict=True):
            text = self._blob[start : self._blob.index(b"\0", start)].decode("ascii", "replace")
            yield address, text[:1], text[1:]


def token_tables(buffer: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """(token_table, token_index) byte offsets of every place in ``buffer`` where both fit each other.

    The index holds the 256 cumulative offsets of the table's strings, so a hit proves itself.
    """
    raw = buffer.tobytes()
    at = raw.find(_DIGITS)
    while at >= 0:
        end = at
        for _ in range(_GROUP - ord("0")):
            end = raw.find(b"\0", end, end + 64) + 1
            if end == 0:
                break
        if end:
            for align in (8, 4):
                index = -(-end // align) * align
                if index + 512 > len(raw):
                    continue
                offsets = np.frombuffer(raw, "<u2", _GROUP, index)
                start = at - int(offsets[ord("0")])
                if start >= 0 and offsets[0] == 0 and _tokens_fit(raw, start, end, offsets):
                    yield start, index
                    break
        at = raw.find(_DIGITS, at + 1)


def _tokens_fit(raw: bytes, start: int, end: int, offsets: NDArray[np.uint16]) -> bool:
    starts = np.concatenate([[0], np.flatnonzero(np.frombuffer(raw, np.uint8, end - start, start) == 0) + 1])
    return len(starts) == _GROUP + 1 and bool((starts[:-1] == offsets).all())


def locate(buffer: NDArray[np.uint8], token_table: int, token_index: int, image_start: int) -> Tables | None:
    """Find the other tables around a token table; None if nothing fits. ``buffer`` should hold some
    24 MiB before it and 4 MiB after; no address of the kernel image is below ``image_start``.
    Pages that could not be read must be zero in it."""
    for width in (4, 8):
        for markers, values in _marker_runs(buffer, token_table, width):
            found = _names_before(buffer, markers, values)
            if found is None:
                continue
            num_syms, names, count = found
            placed = _offsets_for(buffer, names, count, token_index, image_start)
            if placed is not None:
                return Tables(
                    token_table=token_table,
                    token_index=token_index,
                    markers=markers,
                    marker_width=width,
                    names=names,
                    count=count,
                    offsets=placed[0],
                    num_syms=num_syms,
                    relative_base=placed[1],
                )
    return None


def _marker_runs(buffer: NDArray[np.uint8], before: int, width: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Runs of numbers from 0 up, in steps that 256 names can take, nearest to ``before`` first."""
    low = max(0, before - _REACH)
    low += -(low - before) % width
    words = buffer[low:before].view(f"<u{width}")
    # The first marker is 0: only from there is a run worth following.
    zeros = np.flatnonzero((words[:-1] == 0) & (words[1:] >= 2 * _GROUP) & (words[1:] <= _MAX_NAME * _GROUP))
    for first in zeros[::-1][:_MOST_RUNS].tolist():
        length = 256
        while True:
            run = words[first : first + length].astype(np.int64)
            step = np.diff(run)
            good = (step >= 2 * _GROUP) & (step <= _MAX_NAME * _GROUP)
            if not good.all():
                run = run[: int(np.argmin(good)) + 1]
                break
            if first + length >= len(words):
                break
            length *= 4
        if len(run) > 16:
            yield low + first * width, run


def _names_before(buffer: NDArray[np.uint8], markers: int, values: NDArray[np.int64]) -> tuple[int, int, int] | None:
    """(num_syms, names, number of symbols), found as a plausible num_syms after which the markers fit the names."""
    groups = len(values)
    high = markers - int(values[-1])
    low = max(0, high - _MAX_NAME * _GROUP)
    low += -low % 4
    if high - low < 8:
        return None
    words = buffer[low : low + (high - low) // 4 * 4].view("<u4")
    plausible = (words > (groups - 1) * _GROUP) & (words <= groups * _GROUP) & (words <= _MAX_SYMBOLS)
    view = buffer.data
    for word in np.flatnonzero(plausible)[::-1].tolist():
        for names in (low + word * 4 + 8, low + word * 4 + 4):
            if _fits(view, names, values):
                return low + word * 4, names, int(words[word])
    return None


def _fits(view: memoryview, names: int, values: NDArray[np.int64]) -> bool:
    """Do the names from ``names`` on reach the markers? Two groups that can be read are enough, and none
    may miss; no name is empty, so a length of 0 is that of a page that is not held."""
    agreed = 0
    for group in range(min(len(values) - 1, 64)):
        at = names + int(values[group])
        for _ in range(_GROUP):
            if at + 1 >= len(view):
                return False
            length = view[at]
            if length == 0:
                break
            at += 1 + length if length < 0x80 else 2 + (length & 0x7F | view[at + 1] << 7)
        else:
            if at != names + int(values[group + 1]):
                return False
            agreed += 1
            if agreed == 2:
                return True
    return False


def _offsets_for(
    buffer: NDArray[np.uint8], names: int, count: int, token_index: int, image_start: int
) -> tuple[int, int | None] | None:
    """(offsets, relative base) of the 4-byte offset table, before num_syms or after token_index."""

    def base_at(at: int) -> int | None:
        if at < 0 or at + 8 > len(buffer):
            return None
        value = int(buffer[at : at + 8].view("<u8")[0])
        return value if value >= image_start else None

    for num_syms in (names - 8, names - 4):
        early = num_syms - 8
        base = base_at(early)
        if base is not None and early % 4 == 0:
            return early - -(-4 * count // 8) * 8, base
    late = token_index + 512
    if late + 4 * count > len(buffer):
        return None
    base = base_at(late + -(-4 * count // 8) * 8)
    return late, base


def decode(
    buffer: NDArray[np.uint8], tables: Tables, place: int, held: NDArray[np.bool_] | None = None, page_size: int = 0
) -> Kallsyms:
    """Decode every symbol. ``place`` is the address of the buffer's first byte, which only the encoding
    without a relative base needs. ``held`` says of each page (of ``page_size`` bytes) of the buffer whether
    the image holds it; by default all are held.

    Groups whose names cannot be followed to the next marker are left out, and so are symbols whose offset
    is not held.
    """
    if held is None:
        held, page_size = np.ones(1, np.bool_), len(buffer)
    starts, lengths, index = _name_lanes(buffer, tables, held, page_size)
    known = held[(tables.offsets + 4 * index) // page_size]
    starts, lengths, index = starts[known], lengths[known], index[known]
    blob, name_starts = _expand(buffer, tables, starts, lengths)
    raw = buffer[tables.offsets : tables.offsets + 4 * tables.count].view("<i4").astype(np.int64)
    if tables.relative_base is None:
        within = tables.offsets + 4 * np.arange(tables.count, dtype=np.int64) + raw
        values = np.uint64(place % (1 << 64)) + within.view(np.uint64)
    else:
        base = np.uint64(tables.relative_base)
        if (raw < 0).any():  # absolute-percpu
            with np.errstate(over="ignore"):
                relative = base - np.uint64(1) + (-raw).view(np.uint64)
            values = np.where(raw >= 0, raw.view(np.uint64), relative)
        else:
            values = base + raw.view(np.uint64)
    found = Kallsyms(values[index], blob, name_starts, tables.count - len(index))
    found.tables, found.place = tables, place
    return found


def _name_lanes(
    buffer: NDArray[np.uint8], tables: Tables, held: NDArray[np.bool_], page_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Follow the names of all marker groups side by side.

    Returns (first token byte, number of tokens, symbol index) of every name in order, without those of
    groups that are not held whole or do not lead to the next marker.
    """
    groups = -(-tables.count // _GROUP)
    width = tables.marker_width
    words = buffer[tables.markers : tables.markers + width * groups].view(f"<u{width}")
    at = tables.names + words.astype(np.int64)
    first = at.copy()
    starts = np.zeros((_GROUP, groups), np.int64)
    lengths = np.zeros((_GROUP, groups), np.int64)
    last = tables.count - (groups - 1) * _GROUP
    top = len(buffer) - 2
    for row in range(_GROUP):
        here = np.clip(at, 0, top)
        length = buffer[here].astype(np.int64)
        long = length >= 0x80
        # ULEB128 in two bytes since 6.1 (73bbb94466fd): names may need more than 127 tokens.
        length = np.where(long, (length & 0x7F) | (buffer[here + 1].astype(np.int64) << 7), length)
        starts[row] = at + 1 + long
        lengths[row] = length
        at = starts[row] + length
        if row == last - 1:
            at_end = at[-1]
    good = np.ones(groups, np.bool_)
    good[:-1] = at[:-1] == first[1:]
    good[-1] = at_end <= tables.markers and int(lengths[:last, -1].min(initial=1)) > 0
    lost = np.concatenate([[0], np.cumsum(~held)])
    ends = np.append(first[1:], tables.markers)
    good &= lost[np.clip(-(-ends // page_size), 0, len(held))] == lost[np.clip(first // page_size, 0, len(held))]
    keep = np.repeat(good[None, :], _GROUP, axis=0)
    keep[last:, -1] = False
    index = np.arange(groups, dtype=np.int64)[None, :] * _GROUP + np.arange(_GROUP, dtype=np.int64)[:, None]
    flat = keep.T.ravel()
    return (
        starts.T.ravel()[flat],
        lengths.T.ravel()[flat],
        index.T.ravel()[flat],
    )


def _expand(
    buffer: NDArray[np.uint8], tables: Tables, starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[bytes, NDArray[np.int64]]:
    """Replace token bytes by their strings: (blob with a NUL around every name, start of each name)."""
    offsets = buffer[tables.token_index : tables.token_index + 512].view("<u2").astype(np.int64)
    table = buffer[tables.token_table : tables.token_index]
    ends = np.append(offsets[1:], int(offsets[-1]) + int(np.argmax(table[offsets[-1] :] == 0)) + 1)
    # A 257th token, the NUL, ends every name.
    token_size = np.append(ends - offsets - 1, 1)
    token_start = np.append(offsets, ends[0] - 1)
    total = int(lengths.sum()) + len(lengths)
    name_end = np.cumsum(lengths + 1)
    which = np.repeat(starts - (name_end - lengths - 1), lengths + 1) + np.arange(total, dtype=np.int64)
    tokens = buffer[np.minimum(which, len(buffer) - 1)].astype(np.int64)
    tokens[name_end - 1] = _GROUP
    sizes = token_size[tokens]
    edges = np.cumsum(sizes)
    characters = np.repeat(token_start[tokens] - (edges - sizes), sizes) + np.arange(int(edges[-1]))
    blob = b"\0" + table[characters].tobytes()
    name_starts = np.concatenate([[0], edges[name_end[:-1] - 1]]) + 1 if len(lengths) else edges
    return blob, name_starts
