"""BTF, the type information a kernel carries inside itself (Documentation/bpf/btf.rst).

A blob is a header, a section of type records of varying length and a section of strings. Type ids are
ordinal numbers, so every record has to be stepped over once; what a record says is decoded on demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from construct import Const, Int8ul, Int16ul, Int32ul, Struct
from construct.core import ConstructError

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.structures.layout import Field, Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"\x9f\xeb\x01\x00"

HEADER = Struct(
    "magic" / Const(0xEB9F, Int16ul),
    "version" / Const(1, Int8ul),
    "flags" / Int8ul,
    "hdr_len" / Int32ul,
    "type_off" / Int32ul,
    "type_len" / Int32ul,
    "str_off" / Int32ul,
    "str_len" / Int32ul,
)

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)

# 32-bit words after the three common ones: a fixed number, and a number for each of the vlen elements.
_FIXED = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}
_EACH = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}
_ALIASES = {TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG}

_DEPTH = 32  # nesting of typedefs and arrays nobody writes by hand
_UNNAMED = 1024  # unnamed members of one struct, those within them included


class Btf:
    """The types of one BTF blob, looked up by name.

    Raises :class:`KernelNotFoundError` when the header cannot be believed. Records after one of an
    unknown kind cannot be reached; ``problem`` then says so.
    """

    def __init__(self, blob: bytes) -> None:
        try:
            header = HEADER.parse(blob)
        except ConstructError as error:
            raise KernelNotFoundError(f"the BTF header is damaged: {error}") from None
        types = header.hdr_len + header.type_off
        strings = header.hdr_len + header.str_off
        if types + header.type_len > len(blob) or strings + header.str_len > len(blob) or types % 4:
            raise KernelNotFoundError(
                f"the BTF header says {header.type_len} bytes of types and {header.str_len} of strings, "
                f"the blob has {len(blob)} bytes"
            )
        self.blob = blob
        self._words = np.frombuffer(blob, dtype="<u4", count=header.type_len // 4, offset=types)
        self._strings = blob[strings : strings + header.str_len]
        self.problem: str | None = None
        self._starts = self._index()
        self._kinds = (self._words[self._starts + 1] >> np.uint32(24)) & np.uint32(0x7F)
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
        """Word position of every record in :attr:`words`; that of type id *n* is element *n* - 1."""
        return self._starts

    def string(self, offset: int) -> str:
        """The string a record names by its ``offset``; empty for 0."""
        return self._string(offset)

    def _index(self) -> NDArray[np.int64]:
        """Word position of every record. Each word is read as if a record began there, all at once; then
        only the chain of lengths has to be followed."""
        words = self._words
        if len(words) < 3:
            return np.zeros(0, np.int64)
        info = words[1:]
        # Kind has 7 bits and vlen 24 from 7.x on (uapi/linux/btf.h); the added bits were zero before.
        kind = (info >> np.uint32(24)) & np.uint32(0x7F)
        vlen = info & np.uint32(0xFFFFFF)
        fixed = np.zeros(128, np.int64)
        each = np.zeros(128, np.int64)
        fixed[list(_FIXED)] = list(_FIXED.values())
        each[list(_EACH)] = list(_EACH.values())
        length = 3 + fixed[kind] + each[kind] * vlen
        length[(kind == 0) | (kind > ENUM64)] = 0
        step = np.ascontiguousarray(length).data
        starts: list[int] = []
        at, end = 0, len(words)
        while at + 3 <= end:
            size = step[at]
            if size == 0 or at + size > end:
                self.problem = f"type {len(starts) + 1} of the BTF is of unknown kind {int(kind[at])}"
                break
            starts.append(at)
            at += size
        return np.array(starts, dtype=np.int64)

    # Looking up ---------------------------------------------------------------------------------

    def struct(self, name: str) -> Layout | None:
        """The layout of ``struct name``, ``union name`` or of the struct a typedef ``name`` stands for."""
        if name not in self._layouts:
            self._layouts[name] = self._find_struct(name)
        return self._layouts[name]

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
        ids = np.flatnonzero(self._names == at)
        kinds = self._kinds[ids]
        for wanted in ((STRUCT, UNION), (TYPEDEF,)):
            for index in ids[np.isin(kinds, wanted)].tolist():
                word = self._resolve(index + 1)
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
        return int(self._starts[type_id - 1]) if 1 <= type_id <= len(self._starts) else None

    def _resolve(self, type_id: int) -> int | None:
        """Word of ``type_id`` with typedefs and qualifiers taken off; None for void or a broken chain."""
        for _ in range(_DEPTH):
            word = self._word(type_id)
            if word is None or self._kind(word) not in _ALIASES:
                return word
            type_id = int(self._words[word + 2])
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
            for name, type_id, raw in self._words[word + 3 : word + 3 + 3 * count].reshape(-1, 3).tolist():
                offset = base + (raw & 0xFFFFFF if bitfields else raw)
                bits = raw >> 24 if bitfields else 0
                target = self._resolve(type_id)
                if name:
                    fields.setdefault(self._string(name), self._field(target, offset, bits))
                elif target is not None and self._kind(target) in (STRUCT, UNION) and unnamed < _UNNAMED:
                    unnamed += 1
                    todo.append((target, offset))
        return fields

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
