"""Entries of DWARF whose names are numbers in a table of strings of their file of source (clang with DWARF 5).

A number has a byte or two, so that it alone says nothing. An abbreviation that a name follows is looked for together
with it, and where it stands an entry has to begin. The entries are read of those files only that have such a place.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from vmaforensics.kernel.structures.dwarf_entries import UNREADABLE, is_whole, name_of, number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.die import DIE

_BASE = "DW_AT_str_offsets_base"
_WIDTHS = {"DW_FORM_strx1": 1, "DW_FORM_strx2": 2, "DW_FORM_strx3": 3, "DW_FORM_strx4": 4, "DW_FORM_strx": 0}
_TYPE = ("DW_AT_type", "DW_FORM_ref4")
_WORD = 4  # bytes of a place of a string
_MOST_CODES = 1 << 12  # abbreviations of a file


class _Beginning(NamedTuple):
    """An abbreviation of entries that begin with their name."""

    code: bytes
    tag: str
    typed: bool  # clang writes the type of a typedef before its name
    width: int  # bytes of the string's number; 0: as many as it needs


class NumberedStrings:
    """Files of source that number their strings, among ``units``; ``info`` and ``offsets`` are the sections
    ``.debug_info`` and ``.debug_str_offsets``."""

    def __init__(self, info: bytes, offsets: bytes, units: Sequence[CompileUnit]) -> None:
        self._info, self._offsets = info, offsets
        self._units: dict[int, list[CompileUnit]] = {}  # by table: ThinLTO puts files together that share one
        for unit in units if offsets else ():
            if (base := _base_of(unit)) is not None:
                self._units.setdefault(base, []).append(unit)
        self._bases = sorted(self._units)
        self.places = {unit.cu_offset for shared in self._units.values() for unit in shared}  # of these files
        self._beginnings: dict[int, list[_Beginning]] = {}  # by place of the unit
        self._entries: dict[int, set[int]] = {}  # the same

    def entries(self, place: int, tags: tuple[str, ...]) -> Iterator[DIE]:
        """Entries with one of ``tags`` whose name is the string at ``place``."""
        pattern = place.to_bytes(_WORD, "little")
        at = self._offsets.find(pattern) if self._units else -1
        while at >= 0:
            row = bisect_right(self._bases, at) - 1
            base = self._bases[row]
            if row >= 0 and (at - base) % _WORD == 0:
                for unit in self._units[base]:
                    yield from self._in_unit(unit, (at - base) // _WORD, tags)
            at = self._offsets.find(pattern, at + 1)

    def _in_unit(self, unit: CompileUnit, number: int, tags: tuple[str, ...]) -> Iterator[DIE]:
        first = unit.cu_die_offset
        data = self._info[first : unit.cu_offset + unit.size]
        for begin in self._beginnings_of(unit):
            if begin.tag not in tags:
                continue
            name = _encoded(number) if not begin.width else b""
            if begin.width and number < 1 << 8 * begin.width:
                name = number.to_bytes(begin.width, "little")
            between = b"[\\s\\S]{4}" if begin.typed else b""
            pattern = re.compile(b"(?=" + re.escape(begin.code) + between + re.escape(name) + b")")
            for hit in pattern.finditer(data) if name else ():
                entry = self._believed(unit, first + hit.start(), begin.tag)
                if entry is not None:
                    yield entry

    def _believed(self, unit: CompileUnit, place: int, tag: str) -> DIE | None:
        """The entry at ``place``, if there is one: the bytes may look like one by chance, even like a whole one."""
        try:
            entry = unit.get_DIE_from_refaddr(place)
            alike = entry.tag == tag and name_of(entry) is not None and is_whole(unit, entry)
            return entry if alike and place in self._entries_of(unit) else None
        except UNREADABLE:
            return None

    def _beginnings_of(self, unit: CompileUnit) -> list[_Beginning]:
        if unit.cu_offset not in self._beginnings:
            table, found = unit.get_abbrev_table(), []
            for code in range(1, _MOST_CODES):
                try:
                    declared = table.get_abbrev(code).decl
                except UNREADABLE:
                    break
                forms = [(one.name, one.form) for one in declared["attr_spec"]]
                typed = forms[:1] == [_TYPE]
                name, form = forms[typed] if len(forms) > typed else ("", "")
                if name == "DW_AT_name" and form in _WIDTHS:
                    found.append(_Beginning(_encoded(code), declared["tag"], typed, _WIDTHS[form]))
            self._beginnings[unit.cu_offset] = found
        return self._beginnings[unit.cu_offset]

    def _entries_of(self, unit: CompileUnit) -> set[int]:
        """Places of all types of a file, and of its enumerators."""
        if unit.cu_offset not in self._entries:
            found = self._entries[unit.cu_offset] = set()
            for entry in unit.get_top_DIE().iter_children():
                found.add(entry.offset)
                if entry.tag == "DW_TAG_enumeration_type":
                    found.update(child.offset for child in entry.iter_children())
        return self._entries[unit.cu_offset]


def _base_of(unit: CompileUnit) -> int | None:
    """Where the table of a file's strings begins; None for one that does not number them."""
    return number_of(unit.get_top_DIE(), _BASE) if unit["version"] >= 5 else None


def _encoded(number: int) -> bytes:
    """A number as LEB128 has it, without a sign."""
    found = bytearray()
    for shift in count(0, 7):
        rest = number >> shift
        found.append(rest & 0x7F | (0x80 if rest > 0x7F else 0))
        if rest <= 0x7F:
            break
    return bytes(found)
