"""BTF, the type information a kernel carries inside itself (Documentation/bpf/btf.rst).

A blob is a header, a section of type records of varying length and a section of strings. Type ids are
ordinal numbers, so every record has to be stepped over once; what a record says is decoded on demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from construct import Int8ul, Int16ul, Int32ul, Struct

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.structures.btf_records import (
    ALIASES,
    ARRAY,
    ENUM,
    ENUM64,
    FLOAT,
    FWD,
    INT,
    PTR,
    STRUCT,
    TYPEDEF,
    UNION,
    Records,
)
from vmaforensics.kernel.structures.btf_repair import chain_of, is_sound, repair
from vmaforensics.kernel.structures.layout import Field, Layout
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"\x9f\xeb\x01\x00"

HEADER = Struct(
    "magic" / Int16ul,
    "version" / Int8ul,
    "flags" / Int8ul,
    "hdr_len" / Int32ul,
    "type_off" / Int32ul,
    "type_len" / Int32ul,
    "str_off" / Int32ul,
    "str_len" / Int32ul,
)

_HEADER_SIZES = (24, 32)  # up to 7.x, and from then on
_NEAR = 64  # words
_DEPTH = 32  # nesting of typedefs and arrays nobody writes by hand
_UNNAMED = 1024  # unnamed members of one struct, those within them included


def _sections(blob: bytes) -> tuple[int, int, int, int]:
    """(where the types begin, their bytes, where the strings begin, their bytes), as the header says.

    Where it cannot be believed, the strings are found by themselves: pahole puts them right behind the types, and with
    them the blob ends. Raises :class:`KernelNotFoundError` when they are not found.
    """
    if len(blob) < HEADER.sizeof():
        raise KernelNotFoundError(f"the BTF header is damaged: the blob has {len(blob)} bytes")
    stated = HEADER.parse(blob)
    length = stated.hdr_len if stated.hdr_len in _HEADER_SIZES else min(_HEADER_SIZES)
    found = (length + stated.type_off, stated.type_len, length + stated.str_off, stated.str_len)
    if _fit(blob, *found):
        return found
    strings = _strings(blob)
    if strings is not None and strings > length:
        return length, strings - length, strings, len(blob) - strings
    raise KernelNotFoundError(
        f"the BTF header is damaged: it says {stated.type_len} bytes of types and {stated.str_len} of strings, "
        f"the blob has {len(blob)} bytes"
    )


def _fit(blob: bytes, types: int, length: int, strings: int, size: int) -> bool:
    """Can types and strings lie there? They fill the blob to its last byte; or the first string is the empty one, and
    the last ends where they end."""
    if not (
        0 < types <= strings - length and length >= 0 and size > 0 and strings + size <= len(blob) and types % 4 == 0
    ):
        return False
    return (types + length, strings + size) == (strings, len(blob)) or blob[strings] == 0 == blob[strings + size - 1]


def _strings(blob: bytes) -> int | None:
    """Where the strings of a blob begin, without its header: with the empty one, and text to the end.

    Of the words of the types, most have bytes that no text has; so they are told apart though pages of either are lost.
    """
    octets = np.frombuffer(blob, np.uint8)[: len(blob) // 4 * 4]
    text = (octets == 0) | ((octets >= ord(" ")) & (octets <= ord("~")))
    types = ~text.reshape(-1, 4).all(1)
    last = int(np.argmax(np.cumsum(np.where(types, 1, -1))))  # the last word that is no text
    at = 4 * np.arange(last + 1, min(last + _NEAR, len(types)))
    begins = at[(octets[at] == 0) & (octets[at - 1] == 0) & (octets[at + 1] != 0)]
    return int(begins[0]) if len(begins) else None


def mentions(blob: bytes, name: str) -> bool:
    """May a record of the blob have this ``name``? Asked before records are put right, which may take a second."""
    try:
        types, length, strings, size = _sections(blob)
    except KernelNotFoundError:
        return False
    at = blob.find(b"\0" + name.encode() + b"\0", strings, strings + size) + 1 - strings
    words = np.frombuffer(blob, "<u4", count=length // 4, offset=types)
    return at > 0 and bool((words == at).any())


class Btf:
    """The types of one BTF blob, looked up by name.

    Raises :class:`KernelNotFoundError` when the header cannot be believed. Where records are damaged, the
    others are found (:mod:`vmaforensics.kernel.structures.btf_repair`); ``problem`` then says so. With ``whole`` a
    damaged blob is refused instead.
    """

    def __init__(self, blob: bytes, *, whole: bool = False) -> None:
        types, length, strings, size = _sections(blob)
        self.blob = blob
        self._words = np.frombuffer(blob, dtype="<u4", count=length // 4, offset=types)
        self._strings = blob[strings : strings + size]
        self.problem: str | None = None
        records = Records(self._words, self._strings)
        self._index(records, whole=whole)
        if self.problem is None and records.names_lost:
            self.problem = "damaged in its names"
        self._kinds = records.kinds(self._starts)
        self._names = self._words[self._starts]
        self._constants: dict[str, int | None] = {}
        self._layouts: dict[str, Layout | None] = {}
        self._anonymous: dict[str, int] = {}  # words of structs without a name, by the names given to them

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def words(self) -> NDArray[np.uint32]:
        """The section of type records, as 32-bit words."""
        return self._words

    @property
    def starts(self) -> NDArray[np.int64]:
        """Word position in :attr:`words` of every record that could be found."""
        return self._starts

    def string(self, offset: int) -> str:
        """The string a record names by its ``offset``; empty for 0."""
        return self._string(offset)

    def _index(self, records: Records, *, whole: bool) -> None:
        """Find the records, and which of them each type id is."""
        self._starts, ends = chain_of(records)
        ids = np.arange(1, len(self._starts) + 1, dtype=np.int64)
        if not ends or not is_sound(records, self._starts):
            if whole:
                raise KernelNotFoundError("its records are damaged")
            found = repair(records, self._strings)
            self._words, self._starts, ids = found.words, found.starts, found.ids
            self._damage(found.damaged, len(ids) - int(np.count_nonzero(ids)), found.derived)
        self._rows = np.full(max(int(ids.max(initial=0)), records.most) + 1, -1, np.int64)
        self._rows[ids] = np.arange(len(ids))
        self._known = ids > 0
        self._rows[0] = -1

    def _damage(self, places: int, unproven: int, derived: int) -> None:
        """Say what could not be read."""
        if places:
            self.problem = f"damaged at {counted(places, 'place')}"
            if unproven:
                self.problem += f"; of {counted(unproven, 'type')} it is not known which they are"
            if derived:
                self.problem += f"; {counted(derived, 'type')} derived from the members that have them"

    # Looking up ---------------------------------------------------------------------------------

    def struct(self, name: str) -> Layout | None:
        """The layout of ``struct name``, ``union name`` or of the struct a typedef ``name`` stands for."""
        if name not in self._layouts:
            self._layouts[name] = self._find_struct(name)
        return self._layouts[name]

    def amend(self, layout: Layout) -> None:
        """Have a structure be what is known of it otherwise."""
        self._layouts[layout.name] = layout

    def constant(self, name: str) -> int | None:
        """The value of enumerator ``name``, of whatever enum; the first where several share a name."""
        if name not in self._constants:
            self._constants[name] = self._find_constant(name)
        return self._constants[name]

    def _find_constant(self, name: str) -> int | None:
        at = self._strings.find(b"\0" + name.encode() + b"\0") + 1
        if at == 0:
            return None
        for position in np.flatnonzero(self._words == at).tolist():
            row = int(np.searchsorted(self._starts, position, "right")) - 1
            word = int(self._starts[row]) if row >= 0 else 0
            width = {ENUM: 2, ENUM64: 3}.get(self._kind(word)) if row >= 0 else None
            if width is None or position < word + 3 or (position - word - 3) % width:
                continue
            if position - word - 3 >= width * (int(self._words[word + 1]) & 0xFFFFFF):
                continue  # behind the last record that could be reached
            value = int(self._words[position + 1])
            if width == 3:
                value |= int(self._words[position + 2]) << 32
            bits = 32 * (width - 1)
            signed = int(self._words[word + 1]) >> 31
            return value - (1 << bits) if signed and value >> (bits - 1) else value
        return None

    def _find_struct(self, name: str) -> Layout | None:
        if name in self._anonymous:
            return self._layout(name, self._anonymous[name])
        at = self._strings.find(b"\0" + name.encode() + b"\0") + 1
        if at == 0:
            return None
        rows = np.flatnonzero(self._names == at)
        rows = rows[np.argsort(~self._known[rows], kind="stable")]  # a page in another's place may hold one twice
        kinds = self._kinds[rows]
        for wanted in ((STRUCT, UNION), (TYPEDEF,)):
            for start in self._starts[rows[[kind in wanted for kind in kinds.tolist()]]].tolist():
                word = self._stripped(start)
                if word is not None and self._kind(word) in (STRUCT, UNION):
                    return self._layout(name, word)
        return None

    def _layout(self, name: str, word: int) -> Layout:
        return Layout(name=name, size=int(self._words[word + 2]), fields=self._flatten(word))

    def _string(self, offset: int) -> str:
        end = self._strings.find(b"\0", offset)
        return self._strings[offset : end if end >= 0 else None].decode("ascii", "replace")

    def _kind(self, word: int) -> int:
        return int(self._words[word + 1] >> np.uint32(24)) & 0x7F

    def _word(self, type_id: int) -> int | None:
        row = int(self._rows[type_id]) if 0 <= type_id < len(self._rows) else -1
        return int(self._starts[row]) if row >= 0 else None

    def _resolve(self, type_id: int) -> int | None:
        """Word of ``type_id`` with typedefs and qualifiers taken off; None for void or a broken chain."""
        return self._stripped(self._word(type_id))

    def _stripped(self, word: int | None) -> int | None:
        for _ in range(_DEPTH):
            if word is None or self._kind(word) not in ALIASES:
                return word
            word = self._word(int(self._words[word + 2]))
        return None

    def _flatten(self, word: int) -> dict[str, Field]:
        """The members of the struct at ``word``, those of unnamed members included.

        Unnamed members are descended into whatever their type is called: with ms-extensions an anonymous
        member may have a *named* type (7.x: struct freelist_counters in struct slab). In damaged types a
        struct may hold itself, so that their number is bounded.
        """
        fields: dict[str, Field] = {}
        todo = [(word, 0)]  # and how many bits into the whole it lies
        unnamed = 0
        while todo:
            word, base = todo.pop()
            info = int(self._words[word + 1])
            count, bitfields = info & 0xFFFFFF, info >> 31
            members = self._words[word + 3 : word + 3 + 3 * count].reshape(-1, 3).astype(np.int64)
            for name, type_id, raw in members[self._placed(word, members)].tolist():
                offset = base + (raw & 0xFFFFFF if bitfields else raw)
                bits = raw >> 24 if bitfields else 0
                target = self._resolve(type_id)
                if name:
                    field = self._field(target, offset, bits)
                    # A member without a size has a type that is not known: it is not either. Nor are more bits than
                    # a type has.
                    known = field.size or (target is not None and self._kind(target) in (STRUCT, UNION))
                    if known and (not bits or field.bit_offset + bits <= 8 * field.size):
                        fields.setdefault(self._string(name), field)
                elif target is not None and self._kind(target) in (STRUCT, UNION) and unnamed < _UNNAMED:
                    unnamed += 1
                    todo.append((target, offset))
        return fields

    def _placed(self, word: int, members: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the members of the struct at ``word`` lie where they can: in their order, in a union all at 0."""
        offsets = members[:, 2] & 0xFFFFFF if self._words[word + 1] >> np.uint32(31) else members[:, 2]
        if self._kind(word) == UNION:
            return np.equal(offsets, 0)
        before, behind = np.roll(offsets, 1), np.roll(offsets, -1)
        before[:1], behind[-1:] = 0, int(self._words[word + 2]) * 8
        placed: NDArray[np.bool_] = (before > behind) | ((before <= offsets) & (offsets <= behind))
        return placed

    def _field(self, word: int | None, offset: int, bits: int) -> Field:
        count = 1
        shape = False
        for _ in range(_DEPTH):
            if word is None or self._kind(word) != ARRAY:
                break
            shape = True
            count *= int(self._words[word + 5])
            word = self._resolve(int(self._words[word + 3]))
        size, signed, inner, pointer = self._scalar(word)
        return Field(
            offset=offset // 8,
            size=size,
            count=count if shape else None,
            signed=signed,
            bit_offset=offset % 8 if bits else 0,
            bit_size=bits,
            struct=None if inner is None else self._named(inner),
            pointer=pointer,
        )

    def _scalar(self, word: int | None) -> tuple[int, bool, int | None, bool]:
        """(size in bytes, signed, word of the struct it is or points to, is it a pointer) of a type."""
        if word is None:
            return 0, False, None, False
        kind = self._kind(word)
        if kind == PTR:
            target = self._resolve(int(self._words[word + 2]))
            known = target is not None and self._kind(target) in (STRUCT, UNION, FWD)
            return 8, False, target if known else None, True
        size = int(self._words[word + 2])
        if kind == INT:
            return size, bool((int(self._words[word + 3]) >> 24) & 1), None, False
        if kind in (ENUM, ENUM64):
            return size, bool(int(self._words[word + 1]) >> 31), None, False
        if kind in (STRUCT, UNION):
            return size, False, word, False
        return (size if kind == FLOAT else 0), False, None, False

    def _named(self, word: int) -> str:
        """A name under which the struct at ``word`` can be looked up again; anonymous ones get one."""
        if self._words[word]:
            return self._string(int(self._words[word]))
        name = f"(anonymous at {word})"
        self._anonymous[name] = word
        return name
