"""Types and symbols out of an ISF, volatility3's intermediate symbol file (JSON, schemas 4.0 to 6.3).

dwarf2json makes them from a kernel's debugging information, and ``vmaforensics isf`` from an image. Here they
stand in for what an image does not hold: BTF, kallsyms or both.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel.structures.layout import Field, Layout
from vmaforensics.kernel.symbols.by_address import ByAddress

if TYPE_CHECKING:
    import os

_LIMIT = 1 << 29  # bytes unpacked; dwarf2json's file of Linux 7.3 has 61 MiB
_DEPTH = 32  # arrays of arrays
_UNNAMED = 1024  # unnamed members of one structure, those within them included
_READERS: dict[bytes, Any] = {b"\xfd7zXZ\0": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}

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

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = msgspec.json.decode(_unpacked(self.path), type=_File)
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

    def symbols(self, moved: int, image_start: int) -> IsfSymbols:
        """The symbols of the kernel ``moved`` bytes from where it was linked to (KASLR).

        What lies below ``image_start`` is no address in the kernel image, and is not moved.
        """
        # dwarf2json lists local variables too, at 0. Per-CPU offsets (up to 6.14) are small and are not moved.
        return IsfSymbols(
            {
                name: symbol.address + moved if symbol.address >= image_start else symbol.address
                for name, symbol in self._file.symbols.items()
                if 0 < symbol.address < (1 << 64) - moved
            }
        )

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
            count = min((1 if count is None else count) * described.count, _LIMIT)
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


class IsfSymbols:
    """Symbols by name; of several that share one the file holds one only."""

    def __init__(self, addresses: dict[str, int]) -> None:
        self._addresses = addresses
        self._names: dict[int, str] | None = None
        self._by_address: ByAddress | None = None

    def __len__(self) -> int:
        return len(self._addresses)

    def get(self, name: str) -> int | None:
        """Address of the symbol ``name``."""
        return self._addresses.get(name)

    def find(self, name: str) -> list[int]:
        """The same as a list of one, or of none."""
        found = self._addresses.get(name)
        return [] if found is None else [found]

    def name_of(self, address: int) -> str | None:
        """Name of a symbol at exactly ``address``."""
        if self._names is None:
            self._names = {}
            for name, at in self._addresses.items():
                self._names.setdefault(at, name)
        return self._names.get(address)

    def by_address(self) -> ByAddress:
        """The symbols in the order of addresses, sorted once."""
        if self._by_address is None:
            addresses = np.array(list(self._addresses.values()), np.uint64)
            self._by_address = ByAddress(addresses, list(self._addresses).__getitem__)
        return self._by_address


def _unpacked(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            start = stream.read(6)
        reader = next((opener for magic, opener in _READERS.items() if start.startswith(magic)), Path.open)
        with reader(path, mode="rb") as packed:
            data: bytes = packed.read(_LIMIT + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise SymbolFileError(f"the symbol file {path} cannot be read: {error}") from None
    if len(data) > _LIMIT:
        raise SymbolFileError(
            f"the symbol file {path} has more than {_LIMIT >> 20} MiB when unpacked: it is not a symbol file"
        )
    return data
