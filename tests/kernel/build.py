"""Builders: kallsyms tables of every encoding, BTF blobs, page tables in a few pages of memory."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

import numpy as np

from vmaforensics.image.formats.segments import FlatMemory, Segments, lay_out
from vmaforensics.image.source import Mapped

Symbol = tuple[int, str, str]

PAGE = 4096

# kallsyms ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Form:
    """How one range of releases writes its tables (scripts/kallsyms.c)."""

    late: bool  # offsets after token_index (6.4 and later) rather than in front
    addresses: str  # "percpu", "based" or "place"
    align: int = 8
    marker: str = "I"
    count: str = "I"
    sequences: bool = True  # kallsyms_seqs_of_names (6.1 and later)
    long_names: bool = True  # names of more than 127 tokens (6.1 and later)


FORMS = {
    "4.19": Form(late=False, addresses="percpu", marker="Q", count="Q", sequences=False, long_names=False),
    "5.10": Form(late=False, addresses="percpu", sequences=False, long_names=False),
    "6.1": Form(late=False, addresses="percpu"),
    "6.4": Form(late=True, addresses="percpu"),
    "6.15": Form(late=True, addresses="based"),
    "7.0": Form(late=True, addresses="place", align=4),
}

# Strings that token bytes stand for; longer ones first, as the compressor prefers what saves most.
_STRINGS = (
    b"Tkmem_cache_",
    b"__pfx_",
    b"_area_",
    b"__start_",
    b"vm_",
    b"mmap",
    b"_of_",
    b"struct",
    b"ing",
    b"er",
    b"__",
    b"Tv",
    b"ta",
    b"_a",
    b"xy",
    b"zz",
)


@dataclass(kw_only=True)
class Blob:
    """Tables in noise, and where they ended up within ``data``."""

    data: np.ndarray
    at: dict[str, int]

    @property
    def tables(self) -> tuple[int, int]:
        return self.at["token_table"], self.at["token_index"]


def many_symbols(form: Form, count: int = 6000, seed: int = 1) -> list[Symbol]:
    """Symbols as a kernel has them, ascending: per-CPU ones first where those are absolute."""
    rng = random.Random(seed)
    words = ("kmem_cache_", "vm_", "mmap", "_area_", "struct", "ing", "er", "__pfx_", "_of_", "x", "Q", "tail")
    base = 0xFFFFFFFF_9A200000
    symbols = []
    absolute = 40 if form.addresses == "percpu" else 0
    for index in range(count):
        address = index * 0x40 if index < absolute else base + (index - absolute) * 0x30
        kind = "A" if index < absolute else rng.choice("TtDdRrBbW")
        name = "".join(rng.choices(words, k=rng.randint(1, 4))) + f"_{index}"
        symbols.append((address, kind, name))
    # One name of many tokens: over 127 need a second length byte, 511 characters are the most there are.
    length = 500 if form.long_names else 110
    symbols[777] = (symbols[777][0], "t", "W" * length)
    symbols[778] = (symbols[778][0], "T", "z")
    return symbols


def kallsyms(
    form: Form, symbols: list[Symbol], *, place: int, before: int = 1 << 18, after: int = 1 << 17, seed: int = 7
) -> Blob:
    """The tables of ``symbols`` between noise; ``place`` is the address at which the buffer will lie."""
    rng = random.Random(seed)
    tokens = _tokens(symbols)
    names, markers = _names(symbols, tokens)
    table = b"".join(token + b"\0" for token in tokens)
    index = struct.pack("<256H", *np.cumsum([0, *(len(token) + 1 for token in tokens[:-1])]).tolist())
    base = min(address for address, kind, _ in symbols if kind != "A")
    parts: list[tuple[str, bytes]] = [
        ("num_syms", struct.pack("<" + form.count, len(symbols))),
        ("names", names),
        ("markers", struct.pack(f"<{len(markers)}{form.marker}", *markers)),
        ("token_table", table),
        ("token_index", index),
    ]
    offsets: list[tuple[str, bytes]] = [("offsets", b"\0" * 4 * len(symbols))]
    if form.addresses != "place":
        offsets.append(("relative_base", struct.pack("<Q", base)))
    sequences = [("sequences", rng.randbytes(3 * len(symbols)))] if form.sequences else []
    if form.late:
        parts += [*offsets, *sequences]
    else:
        parts = [*offsets, *parts[:3], *sequences, *parts[3:]]
    data = bytearray(rng.randbytes(before))
    at: dict[str, int] = {}
    for name, raw in parts:
        data += b"\0" * (-len(data) % form.align)
        at[name] = len(data)
        data += raw
    first = at["offsets"]
    for row, (address, kind, _) in enumerate(symbols):
        if form.addresses == "place":
            value = address - (place + first + 4 * row)
        elif form.addresses == "based":
            value = address - base
        else:
            value = address if kind == "A" else base - 1 - address
        struct.pack_into("<i" if form.addresses != "based" else "<I", data, first + 4 * row, value)
    at["end"] = len(data)
    data += rng.randbytes(after)
    return Blob(data=np.frombuffer(bytes(data), np.uint8).copy(), at=at)


def _tokens(symbols: list[Symbol]) -> list[bytes]:
    """256 strings: characters in use stand for themselves, the other bytes for longer strings."""
    used = {octet for _, kind, name in symbols for octet in (kind + name).encode()} | set(b"0123456789")
    strings = iter(_STRINGS)
    return [bytes([octet]) if octet in used else next(strings, b"") for octet in range(256)]


def _names(symbols: list[Symbol], tokens: list[bytes]) -> tuple[bytes, list[int]]:
    compress = [(string, bytes([code])) for code, string in enumerate(tokens) if len(string) > 1]
    out, markers = bytearray(), []
    for row, (_, kind, name) in enumerate(symbols):
        if row % 256 == 0:
            markers.append(len(out))
        raw, packed = (kind + name).encode(), bytearray()
        while raw:
            hit = next((pair for pair in compress if raw.startswith(pair[0])), (raw[:1], raw[:1]))
            packed += hit[1]
            raw = raw[len(hit[0]) :]
        size = len(packed)
        out += bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])
        out += packed
    return bytes(out), markers


# BTF --------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class BtfBuilder:
    """Collects type records (include/uapi/linux/btf.h); ids start at 1 in the order of the calls."""

    words: list[int] = field(default_factory=list)
    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    count: int = 0

    def string(self, text: str) -> int:
        """Offset of a string, 0 for the empty one."""
        if not text:
            return 0
        at = self.strings.find(b"\0" + text.encode() + b"\0")
        if at >= 0:
            return at + 1
        at = len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def add(self, kind: int, name: str, size_or_type: int, *more: int, vlen: int = 0, flag: bool = False) -> int:
        """One record; returns its id."""
        self.words += [self.string(name), int(flag) << 31 | kind << 24 | vlen, size_or_type, *more]
        self.count += 1
        return self.count

    def integer(self, name: str, size: int, *, signed: bool = False) -> int:
        return self.add(1, name, size, int(signed) << 24 | size * 8)

    def pointer(self, target: int) -> int:
        return self.add(2, "", target)

    def array(self, element: int, count: int) -> int:
        return self.add(3, "", 0, element, 1, count)

    def composite(
        self, name: str, size: int, members: list[tuple[str, int, int]], *, union: bool = False, flag: bool = False
    ) -> int:
        """A struct or union; members are (name, type, offset word)."""
        more = [word for text, type_id, offset in members for word in (self.string(text), type_id, offset)]
        return self.add(5 if union else 4, name, size, *more, vlen=len(members), flag=flag)

    def alias(self, kind: int, name: str, target: int) -> int:
        """A typedef (8), volatile (9), const (10), restrict (11) or type tag (18)."""
        return self.add(kind, name, target)

    def enum(self, name: str, values: list[tuple[str, int]], *, signed: bool = False) -> int:
        more = [word for text, value in values for word in (self.string(text), value % (1 << 32))]
        return self.add(6, name, 4, *more, vlen=len(values), flag=signed)

    def enum64(self, name: str, values: list[tuple[str, int]], *, signed: bool = False) -> int:
        more = [
            word for text, value in values for word in (self.string(text), value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF)
        ]
        return self.add(19, name, 8, *more, vlen=len(values), flag=signed)

    def build(self, *, header: int = 24) -> bytes:
        """The blob, with a header of 24 bytes or the 32 of 7.x."""
        types = struct.pack(f"<{len(self.words)}I", *self.words)
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, header, 0, len(types), len(types), len(self.strings))
        return head + b"\xff" * (header - 24) + types + bytes(self.strings)


# Page tables --------------------------------------------------------------------------------------------


def memory_of(pages: dict[int, bytes], *, ram: int) -> FlatMemory:
    """Memory of ``ram`` page frames of which only ``pages`` (by frame number) are held."""
    data = b"".join(pages[pfn].ljust(PAGE, b"\0") for pfn in sorted(pages))
    rows = [(pfn * PAGE, PAGE, PAGE, at * PAGE, 1) for at, pfn in enumerate(sorted(pages))]
    rows += [(pfn * PAGE, PAGE, 0, 0, 1) for pfn in range(ram) if pfn not in pages]
    memory, problems = lay_out(Mapped(np.frombuffer(data, np.uint8)), Segments.of_rows(sorted(rows)))
    assert not problems, problems
    return memory


class Tables:
    """Page tables, entry by entry; frames are numbered from 1, the first is the root."""

    def __init__(self) -> None:
        self.pages: dict[int, dict[int, int]] = {1: {}}

    def frame(self) -> int:
        """A new empty table."""
        pfn = len(self.pages) + 1
        self.pages[pfn] = {}
        return pfn

    def entry(self, table: int, slot: int, value: int) -> None:
        """Write one entry as it is."""
        self.pages[table][slot] = value

    def down(self, table: int, slot: int, to: int | None = None) -> int:
        """Let ``slot`` lead to another table, a new one by default; returns that."""
        to = self.frame() if to is None else to
        self.entry(table, slot, to * PAGE | 0x67)
        return to

    def memory(self, *, ram: int = 64, lost: tuple[int, ...] = (), extra: dict[int, bytes] | None = None) -> FlatMemory:
        """Memory that holds the tables, except those in ``lost``."""
        held = {
            pfn: b"".join(struct.pack("<Q", entries.get(slot, 0)) for slot in range(512))
            for pfn, entries in self.pages.items()
            if pfn not in lost
        }
        return memory_of({**held, **(extra or {})}, ram=ram)
