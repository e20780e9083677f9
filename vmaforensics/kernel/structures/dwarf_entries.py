"""What an entry of DWARF says: its name, its type, where it lies, and whether it is whole (DWARF 5, chapter 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elftools.common.exceptions import DWARFError, ELFError, ELFParseError
from elftools.construct import ConstructError

if TYPE_CHECKING:
    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.die import DIE

UNREADABLE = (DWARFError, ELFError, ELFParseError, ConstructError, KeyError, ValueError, TypeError, AttributeError)
STRUCTS = ("DW_TAG_structure_type", "DW_TAG_union_type", "DW_TAG_class_type")
DEPTH = 32  # nesting of typedefs and arrays nobody writes by hand
_INNER = ("DW_TAG_member", *STRUCTS, "DW_TAG_enumeration_type", "DW_TAG_typedef", "DW_TAG_subprogram")
_ALIASES = (
    "DW_TAG_typedef",
    "DW_TAG_const_type",
    "DW_TAG_volatile_type",
    "DW_TAG_restrict_type",
    "DW_TAG_atomic_type",
)
_PLUS = 0x23  # DW_OP_plus_uconst, before DWARF 3 the way to say an offset


def is_whole(unit: CompileUnit, entry: DIE) -> bool:
    """Whether what follows an entry that was found by its name fits it: bytes may look like one by chance."""
    if entry.tag == "DW_TAG_enumerator":
        behind = unit.get_DIE_from_refaddr(entry.offset + entry.size)
        return behind.is_null() or behind.tag == "DW_TAG_enumerator"
    if entry.tag == "DW_TAG_typedef":
        return target_of(entry) is not None
    size = number_of(entry, "DW_AT_byte_size")
    if "DW_AT_declaration" in entry.attributes or not entry.has_children or not size:
        return False
    last = entry
    for child in entry.iter_children():
        member = child.tag == "DW_TAG_member"
        if child.tag not in _INNER or (member and (target_of(child) is None or offset_of(child) > size)):
            return False
        last = child
    if last is entry:
        return False
    sibling = number_of(entry, "DW_AT_sibling")
    end = last.offset + last.size
    if last.has_children:
        end = unit.cu_offset + (number_of(last, "DW_AT_sibling") or 0)
    return sibling is None or unit.cu_offset + sibling == end + 1  # a zero ends the list of children


def name_of(entry: DIE) -> str | None:
    """Its name; None without one."""
    found = entry.attributes.get("DW_AT_name")
    return found.value.decode("ascii", "replace") if found is not None and isinstance(found.value, bytes) else None


def number_of(entry: DIE, attribute: str) -> int | None:
    """An attribute that is a number; None where it is none, or not there."""
    found = entry.attributes.get(attribute)
    return found.value if found is not None and isinstance(found.value, int) else None


def target_of(entry: DIE) -> DIE | None:
    """The type that an entry refers to."""
    return entry.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in entry.attributes else None


def stripped(entry: DIE | None) -> DIE | None:
    """The type itself: without typedefs and qualifiers."""
    for _ in range(DEPTH):
        if entry is None or entry.tag not in _ALIASES:
            return entry
        entry = target_of(entry)
    return None


def offset_of(member: DIE) -> int:
    """Bytes from the beginning of the structure; 0 in a union, and for bit fields that say their bits alone."""
    stated = member.attributes.get("DW_AT_data_member_location")
    if stated is None:
        return 0
    if isinstance(stated.value, int):
        return stated.value
    parts = list(stated.value)
    if not parts or parts[0] != _PLUS:
        return 0
    return sum((byte & 0x7F) << 7 * step for step, byte in enumerate(parts[1:]))


def bits_of(member: DIE) -> tuple[int, int]:
    """(bits from :func:`offset_of`, width) of a bit field; (0, 0) for another member.

    Up to DWARF 3, and in gcc's DWARF 4, bits are counted from the upper end of a word of the member's type.
    """
    width = number_of(member, "DW_AT_bit_size")
    if width is None:
        return 0, 0
    if (first := number_of(member, "DW_AT_data_bit_offset")) is not None:
        return first, width
    word = number_of(member, "DW_AT_byte_size")
    if word is None:
        target = stripped(target_of(member))
        word = (number_of(target, "DW_AT_byte_size") if target is not None else None) or 0
    return max(8 * word - (number_of(member, "DW_AT_bit_offset") or 0) - width, 0), width


def elements_of(array: DIE) -> int:
    """Elements of an array, of all its dimensions; 0 for one without an end."""
    count = 1
    for child in array.iter_children():
        if child.tag == "DW_TAG_subrange_type":
            stated, last = number_of(child, "DW_AT_count"), number_of(child, "DW_AT_upper_bound")
            count *= stated if stated is not None else 0 if last is None else last + 1
    return max(count, 0)
