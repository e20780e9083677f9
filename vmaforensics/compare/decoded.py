"""A structure of the kernel, every member of it, by the kernel's own types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.compare.records_document import Member
from vmaforensics.views.vmas.flag_names import flag_names
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.structures.layout import Field

_DEPTH = 4  # of structures within structures
_MOST = 512  # members
_SHOWN = 16  # elements of an array


def decode(kernel: Kernel, struct: str, address: int) -> list[Member]:
    """Every member of the ``struct`` at ``address``, those of embedded structures by dotted path, in order of
    offset; all members of a union, though only one of them is in use. Empty if the structure is not in the dump.

    Raises :class:`KernelNotFoundError` if the kernel's types have no such structure.
    """
    size = kernel.sizeof(struct)
    data, ok = kernel.space.gather(np.array([address], np.uint64), size)
    if not ok[0]:
        return []
    raw = data[0].tobytes()
    members: list[Member] = []
    for path, offset, field in _members(kernel, struct, "", 0, _DEPTH):
        if offset + field.extent > size or len(members) >= _MOST:
            continue
        value = _value(raw, offset, field)
        members.append(
            Member(
                name=printable(path),
                offset=offset,
                size=field.extent,
                value=_text(value, field),
                meaning=_meaning(kernel, path, value, field),
            )
        )
    return members


def _members(kernel: Kernel, struct: str, prefix: str, base: int, depth: int) -> Iterator[tuple[str, int, Field]]:
    layout = kernel.types.struct(struct)
    fields = layout.fields if layout is not None else {}
    for name, field in sorted(fields.items(), key=lambda item: (item[1].offset, item[1].bit_offset)):
        path, offset = prefix + name, base + field.offset
        inner = field.struct is not None and not field.pointer and field.count is None
        if inner and depth and field.struct is not None and kernel.types.struct(field.struct) is not None:
            yield from _members(kernel, field.struct, path + ".", offset, depth - 1)
        elif field.extent:
            yield path, offset, field


def _value(raw: bytes, offset: int, field: Field) -> list[int]:
    """The elements of a member: one, except for arrays; bytes where it is no integer."""
    step = field.size if field.size in (1, 2, 4, 8) else 1
    values = [
        int.from_bytes(raw[at : at + step], "little", signed=field.signed)
        for at in range(offset, offset + field.extent, step)
    ]
    if field.bit_size:
        values = [(values[0] >> field.bit_offset) & ((1 << field.bit_size) - 1)]
    return values


def _text(values: list[int], field: Field) -> str:
    if len(values) == 1:
        return str(values[0]) if values[0] < 0 else hex(values[0])
    step = field.size if field.size in (1, 2, 4, 8) else 1
    return " ".join(f"{value % (1 << 8 * step):0{2 * step}x}" for value in values[:16]) + (
        " …" if len(values) > 16 else ""
    )


def _meaning(kernel: Kernel, path: str, values: list[int], field: Field) -> str:
    """What a value leads to or stands for, where that can be said in a few words."""
    value = values[0]
    if len(values) > 1 or not value:
        return ""
    if path == "vm_flags":
        return " ".join(flag_names(kernel, value))
    if path.startswith("vm_page_prot"):
        bits = ((0, "present"), (1, "writable"), (2, "user"), (63, "no execute"))
        return ", ".join(name for bit, name in bits if value >> bit & 1)
    if path == "vm_pgoff":
        return f"{(value << kernel.arch.page_shift) % (1 << 64):#x} bytes"
    if field.pointer and kernel.arch.kernel_pointer(np.array([value], np.uint64))[0]:
        symbol = kernel.symbols.name_of(value)
        if symbol:
            return printable(symbol)
        named = field.struct is not None and not field.struct.startswith("(")
        return printable(f"struct {field.struct}") if named else ""
    return ""
