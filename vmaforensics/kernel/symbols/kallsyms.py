"""The kernel's own symbol table, decoded from its read-only data (kernel/kallsyms.c, scripts/kallsyms.c).

Where the tables are, :mod:`~vmaforensics.kernel.symbols.kallsyms_tables` finds out.

Addresses are ``base + offset`` (6.15 to 6.19); up to 6.14 an offset >= 0 is an absolute (per-CPU) value and
a negative one stands for ``base - 1 - offset``; from 7.0 an offset counts from its own place in the table.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import bounds_of, sort_order
from vmaforensics.kernel.symbols.by_address import ByAddress
from vmaforensics.kernel.symbols.kallsyms_tables import GROUP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from vmaforensics.kernel.symbols.kallsyms_tables import Tables

_HEAD = 8  # bytes of a name that it is looked up by, beside its length
_LONGEST_TOKEN = 128  # bytes that a token stands for; those of real tables are a few dozen at most


class Symbol(NamedTuple):
    """A symbol as /proc/kallsyms prints it."""

    address: int
    kind: str  # the type character of nm(1); upper case: global
    name: str


class Kallsyms:
    """Names, types and addresses of every symbol.

    ``addresses`` is uint64 of shape ``(n,)`` in table order; names are one NUL-separated blob. Where
    groups of names could not be read, ``lost`` counts the symbols that are missing.
    """

    def __init__(self, addresses: NDArray[np.uint64], blob: bytes, starts: NDArray[np.int64], lost: int) -> None:
        self.addresses = addresses
        self.lost = lost
        self._blob = blob  # b"\0Tname\0Tname\0", each name after its type character
        self._found: dict[str, list[int]] = {}
        self._by_address: ByAddress | None = None
        self._by_head: tuple[NDArray[np.uint64], NDArray[np.int64]] | None = None
        self._starts = starts  # of each symbol's type character, ascending
        self.tables: Tables | None = None  # what it was decoded from, counted from ``place``
        self.place = 0

    @classmethod
    def of(cls, table: dict[str, int]) -> Kallsyms:
        """Symbols from a mapping of names to addresses."""
        return cls.of_pairs(table.items())

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[str, int]]) -> Kallsyms:
        """Symbols from names and addresses; a name may come again."""
        listed = list(pairs)
        names = [b"?" + name.encode() + b"\0" for name, _ in listed]
        starts = np.cumsum([1, *map(len, names)], dtype=np.int64)[: len(names)]
        return cls(np.array([at for _, at in listed], np.uint64), b"\0" + b"".join(names), starts, 0)

    @property
    def every_function(self) -> bool:
        """Whether no name was lost: functions it always lists."""
        return self.lost == 0

    def __len__(self) -> int:
        return len(self.addresses)

    def find(self, name: str) -> list[int]:
        """Addresses of every symbol called ``name``, in table order; static ones may share a name."""
        if name not in self._found:
            self._found[name] = self._search(name)
        return self._found[name]

    def _search(self, name: str) -> list[int]:
        """Of symbols as long as ``name`` that begin with the same bytes, those that are it."""
        if self._by_head is None:
            self._by_head = self._heads()
        keys, order = self._by_head
        text = name.encode()
        rows = np.sort(order[slice(*bounds_of(keys, _head(text)))])
        whole = np.frombuffer(text + b"\0", np.uint8)
        places = self._starts[rows][:, None] + 1 + np.arange(len(whole))
        same = np.take(np.frombuffer(self._blob, np.uint8), places, mode="clip") == whole
        found: list[int] = self.addresses[rows[same.all(axis=1)]].tolist()
        return found

    def _heads(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """What :func:`_head` gives of every symbol, ascending, and the row of each."""
        raw = np.frombuffer(self._blob + bytes(_HEAD), np.uint8)
        lengths = np.diff(self._starts, append=len(self._blob)) - 2  # the type character before, the NUL behind
        heads = raw[self._starts[:, None] + 1 + np.arange(_HEAD)]
        heads[np.arange(_HEAD) >= lengths[:, None]] = 0
        keys = heads.view("<u8")[:, 0] ^ lengths.astype(np.uint64)
        order = sort_order(keys)
        return keys[order], order

    def get(self, name: str) -> int | None:
        """Address of the first symbol called ``name``."""
        found = self.find(name)
        return found[0] if found else None

    def shifted(self, by: int) -> Kallsyms:
        """The same symbols with ``by`` (modulo 2**64) added to every address."""
        moved = self.addresses + np.uint64(by % (1 << 64))
        found = Kallsyms(moved, self._blob, self._starts, self.lost)
        found._by_head = self._by_head
        found.tables, found.place = self.tables, (self.place + by) % (1 << 64)
        return found

    def plus(self, more: Iterable[tuple[str, int]]) -> Kallsyms:
        """The same symbols and ``more``, names and addresses, behind them, of unknown type."""
        others = Kallsyms.of_pairs(more)
        addresses = np.append(self.addresses, others.addresses)
        starts = np.append(self._starts, others._starts + (len(self._blob) - 1))
        found = Kallsyms(addresses, self._blob + others._blob[1:], starts, self.lost)
        found.tables, found.place = self.tables, self.place
        return found

    def name_of(self, address: int) -> str | None:
        """Name of the first symbol at exactly ``address``."""
        hits = np.flatnonzero(self.addresses == np.uint64(address))
        if not len(hits):
            return None
        return self._name(int(hits[0]))

    def by_address(self) -> ByAddress:
        """The symbols in the order of addresses, sorted once."""
        if self._by_address is None:
            self._by_address = ByAddress(self.addresses, self._name)
        return self._by_address

    def _name(self, row: int) -> str:
        start = int(self._starts[row])
        return self._blob[start + 1 : self._blob.index(b"\0", start)].decode("ascii", "replace")

    def sha256(self, moved: int, image_start: int) -> str:
        """A hash of names and addresses that tells tables apart; ``moved`` bytes are taken off addresses that lie in
        the kernel image, which begins at ``image_start`` at the lowest."""
        mapped = self.addresses >= np.uint64(image_start)
        as_linked = self.addresses - np.where(mapped, np.uint64(moved % (1 << 64)), np.uint64(0))
        return hashlib.sha256(self._blob + as_linked.tobytes()).hexdigest()

    def items(self) -> Iterator[Symbol]:
        """Every symbol, in table order."""
        for address, start in zip(self.addresses.tolist(), self._starts.tolist(), strict=True):
            text = self._blob[start : self._blob.index(b"\0", start)].decode("ascii", "replace")
            yield Symbol(address, text[:1], text[1:])


def _head(name: bytes) -> int:
    return int.from_bytes(name[:_HEAD].ljust(_HEAD, b"\0"), "little") ^ len(name)


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
    blob, name_starts = _plain(*_expand(buffer, tables, starts, lengths))
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


def _plain(blob: bytes, starts: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """Names as the source has them: ThinLTO appends ``.llvm.`` and a number to static symbols that it makes global."""
    if b".llvm." not in blob:
        return blob, starts
    blob = re.sub(rb"\.llvm\.\d+(?=\0)", b"", blob)
    return blob, np.flatnonzero(np.frombuffer(blob, np.uint8)[:-1] == 0) + 1


def _name_lanes(
    buffer: NDArray[np.uint8], tables: Tables, held: NDArray[np.bool_], page_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Follow the names of all marker groups side by side.

    Returns (first token byte, number of tokens, symbol index) of every name in order, without those of
    groups that are not held whole or do not lead to the next marker.
    """
    groups = -(-tables.count // GROUP)
    width = tables.marker_width
    words = buffer[tables.markers : tables.markers + width * groups].view(f"<u{width}")
    at = tables.names + words.astype(np.int64)
    first = at.copy()
    starts = np.zeros((GROUP, groups), np.int64)
    lengths = np.zeros((GROUP, groups), np.int64)
    last = tables.count - (groups - 1) * GROUP
    top = len(buffer) - 2
    for row in range(GROUP):
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
    keep = np.repeat(good[None, :], GROUP, axis=0)
    keep[last:, -1] = False
    index = np.arange(groups, dtype=np.int64)[None, :] * GROUP + np.arange(GROUP, dtype=np.int64)[:, None]
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
    index = buffer[tables.token_index : tables.token_index + 512].view("<u2").astype(np.int64)
    table = np.append(buffer[tables.token_table : tables.token_index], np.uint8(0))
    offsets = np.minimum(index, len(table) - 1)
    ends = np.append(offsets[1:], int(offsets[-1]) + int(np.argmax(table[offsets[-1] :] == 0)) + 1)
    # A 257th token, the NUL, ends every name. What damage has left of the others leads nowhere but into the table.
    token_size = np.append(np.clip(ends - offsets - 1, 0, _LONGEST_TOKEN), 1)
    token_start = np.append(offsets, len(table) - 1)
    total = int(lengths.sum()) + len(lengths)
    name_end = np.cumsum(lengths + 1)
    which = np.repeat(starts - (name_end - lengths - 1), lengths + 1) + np.arange(total, dtype=np.int64)
    tokens = buffer[np.minimum(which, len(buffer) - 1)].astype(np.int64)
    tokens[name_end - 1] = GROUP
    sizes = token_size[tokens]
    edges = np.cumsum(sizes)
    # In place: a temporary of these takes longer to get from the system than to fill.
    characters = np.repeat(token_start[tokens] - (edges - sizes), sizes)
    characters += np.arange(len(characters))
    blob = b"\0" + table.take(characters, mode="clip").tobytes()
    name_starts = np.concatenate([[0], edges[name_end[:-1] - 1]]) + 1 if len(lengths) else edges
    return blob, name_starts
