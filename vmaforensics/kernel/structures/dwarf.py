"""Types out of DWARF, the debugging information of vmlinux: only those that are asked for.

Hundreds of MB hold the same types over and over, once for each file of the kernel's sources. So nothing is read in
order. A definition names itself by the place of its name in ``.debug_str``; the bytes of that place are looked for
in ``.debug_info``, and what stands before them has to be an entry of the kind looked for. What pyelftools then reads
is one definition. Of compilers that number their strings for each file: :mod:`.dwarf_numbered`.
"""

from __future__ import annotations

import inspect
import re
from bisect import bisect_right
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

from vmaforensics.kernel.structures.dwarf_entries import (
    DEPTH,
    STRUCTS,
    UNREADABLE,
    bits_of,
    elements_of,
    is_whole,
    name_of,
    number_of,
    offset_of,
    stripped,
    target_of,
)
from vmaforensics.kernel.structures.dwarf_numbered import NumberedStrings
from vmaforensics.kernel.structures.layout import Field, Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.die import DIE

# The last two hold no types, but clang's units refer to them, and pyelftools then reads their heads.
SECTIONS = (
    *(".debug_info", ".debug_abbrev", ".debug_str", ".debug_str_offsets", ".debug_line_str", ".debug_addr"),
    *(".debug_rnglists", ".debug_loclists"),
)

# Bytes of an abbreviation's number, and whether a type stands between it and the name. What is the end of a larger
# number may look like a small one.
_HEADS = ((2, False), (1, False), (2, True), (1, True))
_TYPE = ("DW_AT_type", "DW_FORM_ref4")
_SIGNED = (5, 6, 13)  # DW_ATE_signed, DW_ATE_signed_char, DW_ATE_signed_fixed
_UNNAMED_AT = re.compile(r"\(anonymous at (0x[0-9a-f]{1,16})\)")
_UNNAMED = 1024  # unnamed members of one structure, those within them included
_FIRST = (2 << 20, 16 << 20, 64 << 20)  # bytes of .debug_info
_MOST = 1 << 24  # bytes of a structure, elements of an array


class Dwarf:
    """The types of ``sections``, by name; a :class:`~vmaforensics.kernel.structures.layout.Types`.

    Raises one of :data:`UNREADABLE` where the sections cannot be believed.
    """

    def __init__(self, sections: Mapping[str, bytes]) -> None:
        """``sections`` has those of :data:`SECTIONS` that there are, unpacked."""
        self._info, self._strings = sections[".debug_info"], sections.get(".debug_str", b"")
        self._dwarf = _dwarf_of(sections)
        self._units: list[CompileUnit] = list(self._dwarf.iter_CUs())
        self._begins = [unit.cu_offset for unit in self._units]
        self._numbered = NumberedStrings(self._info, sections.get(".debug_str_offsets", b""), self._units)
        self._stretches = _stretches(unit for unit in self._units if unit.cu_offset not in self._numbered.places)
        self._layouts: dict[str, Layout | None] = {}
        self._constants: dict[str, int | None] = {}

    def __len__(self) -> int:
        """How many files of source it describes."""
        return len(self._units)

    def struct(self, name: str) -> Layout | None:
        """The layout of ``struct name``, ``union name`` or of the struct a typedef ``name`` stands for."""
        if name not in self._layouts:
            self._layouts[name] = self._find_struct(name)
        return self._layouts[name]

    def constant(self, name: str) -> int | None:
        """The value of enumerator ``name``, of whatever enum; the first where several share a name."""
        if name not in self._constants:
            found = next(self._entries(name, ("DW_TAG_enumerator",)), None)
            self._constants[name] = None if found is None else number_of(found, "DW_AT_const_value")
        return self._constants[name]

    # Finding ---------------------------------------------------------------------------------------

    def _find_struct(self, name: str) -> Layout | None:
        if (unnamed := _UNNAMED_AT.fullmatch(name)) is not None:
            found = self._dwarf.get_DIE_from_refaddr(int(unnamed[1], 16))
            return self._layout(name, found) if found.tag in STRUCTS else None
        for entry in self._entries(name, STRUCTS):
            if "DW_AT_byte_size" in entry.attributes and "DW_AT_declaration" not in entry.attributes:
                return self._layout(name, entry)
        for entry in self._entries(name, ("DW_TAG_typedef",)):
            target = stripped(entry)
            if target is not None and target.tag in STRUCTS and "DW_AT_byte_size" in target.attributes:
                return self._layout(name, target)
        return None

    def _entries(self, name: str, tags: tuple[str, ...]) -> Iterator[DIE]:
        """Entries with one of ``tags`` called ``name``."""
        encoded = name.encode() + b"\0"
        places = list(_occurrences(self._strings, encoded)) if name else []  # a linker has one place for equal ends
        places.sort(key=lambda place: self._strings[max(place - 1, 0) : place].strip(b"\0"))  # whole ones first
        # The first files of source have nearly all types that matter.
        parts = pairwise((0, *_FIRST, len(self._info)))
        for low, high in ((max(low, at), min(high, end)) for low, high in parts for at, end in self._stretches):
            if len(encoded) <= 4:  # a name no longer than its place stands there itself
                yield from self._before(encoded, "DW_FORM_string", tags, low, high)
            for place in places:
                yield from self._before(place.to_bytes(4, "little"), "DW_FORM_strp", tags, low, high)
        for place in places:
            yield from self._numbered.entries(place, tags)

    def _before(self, pattern: bytes, form: str, tags: tuple[str, ...], low: int, high: int) -> Iterator[DIE]:
        """Entries with one of ``tags`` whose first attribute is a name: ``pattern`` in ``form``, from low to high."""
        for hit in _occurrences(self._info, pattern, low, high):
            for size, typed in _HEADS:
                place = hit - size - 4 * typed
                unit = self._unit(place)
                if unit is None or not self._begins_entry(unit, place, size, form, tags, typed=typed):
                    continue
                try:
                    entry = unit.get_DIE_from_refaddr(place)
                    whole = is_whole(unit, entry)
                except UNREADABLE:
                    continue
                if whole:
                    yield entry

    def _unit(self, place: int) -> CompileUnit | None:
        row = bisect_right(self._begins, place) - 1
        unit = self._units[row] if row >= 0 else None
        return unit if unit is not None and unit.cu_die_offset <= place < unit.cu_offset + unit.size else None

    def _begins_entry(
        self, unit: CompileUnit, place: int, size: int, form: str, tags: tuple[str, ...], *, typed: bool
    ) -> bool:
        """Whether the ``size`` bytes at ``place`` are the number of such an abbreviation; ``typed``: clang writes the
        type of a typedef before its name."""
        code = self._info[place : place + size]
        if any(byte < 0x80 for byte in code[:-1]) or code[-1] >= 0x80:
            return False
        number = sum((byte & 0x7F) << 7 * step for step, byte in enumerate(code))
        try:
            declared = unit.get_abbrev_table().get_abbrev(number)
        except UNREADABLE:
            return False
        attributes = declared.decl["attr_spec"]
        if declared.decl["tag"] not in tags or len(attributes) <= typed:
            return False
        before = [(one.name, one.form) for one in attributes[: int(typed)]]
        name = attributes[int(typed)]
        return before == [_TYPE] * typed and name.name == "DW_AT_name" and name.form == form

    # Reading one -----------------------------------------------------------------------------------

    def _layout(self, name: str, entry: DIE) -> Layout:
        return Layout(name=name, size=min(number_of(entry, "DW_AT_byte_size") or 0, _MOST), fields=self._flatten(entry))

    def _flatten(self, entry: DIE) -> dict[str, Field]:
        """The members, those of unnamed members included."""
        fields: dict[str, Field] = {}
        todo = [(entry, 0)]
        unnamed = 0
        while todo:
            struct, base = todo.pop()
            for child in struct.iter_children():
                if child.tag != "DW_TAG_member":
                    continue
                offset = base + offset_of(child)
                name, target = name_of(child), target_of(child)
                if name is not None:
                    fields.setdefault(name, self._field(target, offset, bits_of(child)))
                elif (inner := stripped(target)) is not None and inner.tag in STRUCTS and unnamed < _UNNAMED:
                    unnamed += 1
                    todo.append((inner, offset))
        return fields

    def _field(self, entry: DIE | None, offset: int, bits: tuple[int, int]) -> Field:
        """The member of the type ``entry`` at ``offset`` (bytes); of a bit field, ``bits`` are its place and width."""
        count: int | None = None
        entry = stripped(entry)
        for _ in range(DEPTH):
            if entry is None or entry.tag != "DW_TAG_array_type":
                break
            count = min((1 if count is None else count) * elements_of(entry), _MOST)
            entry = stripped(target_of(entry))
        size, signed, struct, pointer = self._scalar(entry)
        position, width = bits if size in (1, 2, 4, 8) else (0, 0)
        return Field(
            offset=offset + position // 8,
            size=min(size, _MOST),
            count=count,
            signed=signed,
            bit_offset=position % 8,
            bit_size=width,
            struct=struct,
            pointer=pointer,
        )

    def _scalar(self, entry: DIE | None) -> tuple[int, bool, str | None, bool]:
        """(size in bytes, signed, the struct it is or points to, is it a pointer) of a type."""
        if entry is None:
            return 0, False, None, False
        if entry.tag == "DW_TAG_pointer_type":
            target = stripped(target_of(entry))
            known = target is not None and target.tag in STRUCTS
            return 8, False, self._named(target) if known and target is not None else None, True
        size = number_of(entry, "DW_AT_byte_size") or 0
        if entry.tag in STRUCTS:
            name = self._named(entry)
            if "DW_AT_byte_size" not in entry.attributes and (whole := self.struct(name)) is not None:
                size = whole.size
            return size, False, name, False
        if entry.tag == "DW_TAG_enumeration_type":
            return (
                size,
                any((number_of(child, "DW_AT_const_value") or 0) < 0 for child in entry.iter_children()),
                None,
                False,
            )
        return size, number_of(entry, "DW_AT_encoding") in _SIGNED, None, False

    def _named(self, entry: DIE) -> str:
        """A name under which the struct can be looked up again; anonymous ones get one."""
        name = name_of(entry)
        return f"(anonymous at {entry.offset:#x})" if name is None else name


def _dwarf_of(sections: Mapping[str, bytes]) -> DWARFInfo:
    parts: dict[str, Any] = dict.fromkeys(list(inspect.signature(DWARFInfo).parameters))
    for name in SECTIONS:
        data = sections.get(name)
        if data is not None:
            parts[f"{name[1:]}_sec"] = DebugSectionDescriptor(BytesIO(data), name, 0, len(data), 0)
    parts["config"] = DwarfConfig(little_endian=True, machine_arch="x64", default_address_size=8)
    return DWARFInfo(**parts)


def _stretches(units: Iterable[CompileUnit]) -> list[tuple[int, int]]:
    """Where units lie, ``[first, end)``; those that follow each other are one."""
    found: list[tuple[int, int]] = []
    for unit in units:
        first = found.pop()[0] if found and found[-1][1] == unit.cu_offset else unit.cu_offset
        found.append((first, unit.cu_offset + unit.size))
    return found


def _occurrences(data: bytes, pattern: bytes, low: int = 0, high: int | None = None) -> Iterator[int]:
    """Where ``pattern`` begins, from ``low`` to ``high``."""
    end = len(data) if high is None else min(high + len(pattern) - 1, len(data))
    at = data.find(pattern, low, end)
    while at >= 0:
        yield at
        at = data.find(pattern, at + 1, end)
