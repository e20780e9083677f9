"""Types and symbols out of an ISF, volatility3's intermediate symbol file (JSON, schemas 4.0 to 6.3).

dwarf2json makes them from a kernel's debugging information, and ``vmaforensics isf`` from an image. Here they
stand in for what an image does not hold: BTF, kallsyms or both.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel.structures.layout import Field, Layout
from vmaforensics.kernel.symbols.by_name import NamedSymbols, moved_symbols, plain_name
from vmaforensics.kernel.symbols.unpacked import unpacked

if TYPE_CHECKING:
    import os

_MOST = 1 << 29  # elements of an array
_DEPTH = 32  # arrays of arrays
_UNNAMED = 1024  # unnamed members of one structure, those within them included

# What is far more than any kernel's structure has would only make reads of absurd size.
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
_Bits = Annotated[int, msgspec.Meta(ge=0, le=64)]


class _Type(msgspec.Struct):
    kind: str
    name: str = ""
    count: _Bytes = 0
    bit_position: _Bits = 0
    bit_length: _Bits = 0
    subtype: _Type | None = None
    type: _Type | None = None


class _Member(msgspec.Struct):
    type: _Type
    offset: _Bytes
    anonymous: bool = False


class _UserType(msgspec.Struct):
    kind: str
    size: _Bytes
    fields: dict[str, _Member]


class _Base(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=0, le=64)]
    signed: bool


class _Enum(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=0, le=8)]
    base: str
    constants: dict[str, int]


class _Symbol(msgspec.Struct):
    address: int
    constant_data: str | None = None


class _File(msgspec.Struct):
    metadata: dict[str, Any]
    base_types: dict[str, _Base]
    user_types: dict[str, msgspec.Raw]  # decoded one by one: an analysis asks for some hundred of ten thousand
    enums: dict[str, _Enum]
    symbols: dict[str, _Symbol]


class Isf:
    """A symbol file of a Linux kernel: types (a :class:`~vmaforensics.kernel.structures.layout.Types`), and symbols.

    Raises :class:`SymbolFileError` for a file that cannot be read, is not an ISF, or is not of Linux.
    """

    build_id: str | None = None  # an ISF has none

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = msgspec.json.decode(unpacked(self.path), type=_File)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise SymbolFileError(
                f"{self.path} is not a symbol file: {error}; expected an ISF of volatility3 (JSON, as dwarf2json "
                "or `vmaforensics isf` writes it)"
            ) from None
        banner = self._file.symbols.get("linux_banner")
        if banner is None or banner.constant_data is None:
            raise SymbolFileError(f"{self.path} has no linux_banner with its text, so that it names no Linux kernel")
        try:
            self.banner = base64.b64decode(banner.constant_data, validate=True).rstrip(b"\0")
        except (binascii.Error, ValueError):
            raise SymbolFileError(f"the linux_banner of {self.path} is not base64: the file is damaged") from None
        self._layouts: dict[str, Layout | None] = {}
        self._constants: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._file.user_types)

    def struct(self, name: str) -> Layout | None:
        """The layout of a structure or union. Raises :class:`SymbolFileError` if what the file says is no type."""
        if name not in self._layouts:
            found = self._user_type(name)
            fields = {} if found is None else self._flatten(found)
            self._layouts[name] = None if found is None else Layout(name=name, size=found.size, fields=fields)
        return self._layouts[name]

    def constant(self, name: str) -> int | None:
        """The value of enumerator ``name``, of whatever enum; the first where several share a name."""
        if self._constants is None:
            self._constants = {}
            for enum in self._file.enums.values():
                for label, value in enum.constants.items():
                    self._constants.setdefault(label, value)
        return self._constants.get(name)

    def address(self, name: str) -> int | None:
        """Where the symbol ``name`` was linked to."""
        found = self._file.symbols.get(name)
        return found.address if found is not None and 0 < found.address < 1 << 64 else None

    def symbols(self, moved: int, image_start: int) -> NamedSymbols:
        """The symbols, ``moved`` as by :func:`~vmaforensics.kernel.symbols.by_name.moved_symbols`."""
        # dwarf2json lists local variables too, at 0.
        linked = ((plain_name(name), symbol.address) for name, symbol in self._file.symbols.items())
        return moved_symbols(linked, moved, image_start, every_function=False)

    def _user_type(self, name: str) -> _UserType | None:
        raw = self._file.user_types.get(name)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=_UserType)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise SymbolFileError(f"the type {name} of {self.path} cannot be read: {error}") from None

    def _flatten(self, found: _UserType) -> dict[str, Field]:
        """The members, those of unnamed members included; in a damaged file these might hold themselves."""
        fields: dict[str, Field] = {}
        todo = [(found, 0)]
        unnamed = 0
        while todo:
            layout, base = todo.pop()
            for name, member in layout.fields.items():
                if not member.anonymous:
                    fields.setdefault(name, self._field(member.type, base + member.offset))
                    continue
                inner = self._user_type(member.type.name)
                if inner is not None and unnamed < _UNNAMED:
                    unnamed += 1
                    todo.append((inner, base + member.offset))
        return fields

    def _field(self, described: _Type, offset: int) -> Field:
        """The member at ``offset`` (bytes); of a bit field, the bytes that hold it and its place in them."""
        count: int | None = None
        for _ in range(_DEPTH):
            if described.kind != "array" or described.subtype is None:
                break
            count = min((1 if count is None else count) * described.count, _MOST)
            described = described.subtype
        position, bits = 0, 0
        if described.kind == "bitfield" and described.type is not None:
            position, bits, described = described.bit_position, described.bit_length, described.type
        size, signed, struct, pointer = self._scalar(described)
        return Field(
            offset=offset + position // 8,
            size=size,
            count=count,
            signed=signed,
            bit_offset=position % 8 if size in (1, 2, 4, 8) else 0,
            bit_size=bits if size in (1, 2, 4, 8) else 0,
            struct=struct,
            pointer=pointer,
        )

    def _scalar(self, described: _Type) -> tuple[int, bool, str | None, bool]:
        """(size in bytes, signed, the struct it is or points to, is it a pointer) of a type."""
        if described.kind == "pointer":
            target = described.subtype
            known = target is not None and target.kind in ("struct", "union", "class")
            return 8, False, target.name if known and target is not None else None, True
        if described.kind in ("struct", "union", "class"):
            inner = self._user_type(described.name)
            return (0 if inner is None else inner.size), False, described.name, False
        if described.kind == "enum":
            enum = self._file.enums.get(described.name)
            base = None if enum is None else self._file.base_types.get(enum.base)
            return (4 if enum is None else enum.size), base is not None and base.signed, None, False
        base = self._file.base_types.get(described.name) if described.kind == "base" else None
        return (0, False, None, False) if base is None else (base.size, base.signed, None, False)
