"""The member of a structure that lies at an offset, as C would name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.structures.layout import Field

_DEEPEST: Final = 6
# What caches hold whose name is not that of the structure.
_STRUCTS: Final = {"filp": "file", "files_cache": "files_struct", "sighand_cache": "sighand_struct"}


class Pointer(NamedTuple):
    """A member that points to a structure."""

    name: str
    offset: int
    struct: str  # that it points to


def struct_of_cache(kernel: Kernel, cache: str) -> str | None:
    """The structure that the objects of a slab cache are; None where its name does not tell."""
    name = _STRUCTS.get(cache, cache)
    return name if kernel.types.struct(name) is not None else None


def member_at(kernel: Kernel, struct: str, offset: int) -> str | None:
    """The member at an offset: ``tasks.next``; None where no member begins or reaches there.

    Of the members of a union it is the first that begins just there, else the one that begins last.
    """
    path = ""
    for _ in range(_DEEPEST):
        layout = kernel.types.struct(struct)
        if layout is None or not 0 <= offset < layout.size:
            break
        fits = [
            (name, field)
            for name, field in layout.fields.items()
            if field.offset <= offset < field.offset + field.extent
        ]
        if not fits:
            break
        name, field = max(fits, key=lambda item: (item[1].offset == offset, item[1].offset))
        place = (offset - field.offset) // field.size if field.count is not None and field.size else None
        path += ("." if path else "") + name + ("" if place is None else f"[{place}]")
        offset -= field.offset + (0 if place is None else place * field.size)
        if field.struct is None or field.pointer:
            break
        struct = field.struct
    return path or None


def pointers_of(kernel: Kernel, struct: str) -> Iterator[Pointer]:
    """The members of a structure that point to structures, those of embedded structures left out."""
    layout = kernel.types.struct(struct)
    for name, field in sorted(layout.fields.items(), key=lambda item: item[1].offset) if layout is not None else ():
        if _leads(field) and field.struct is not None:
            yield Pointer(name, field.offset, field.struct)


def _leads(field: Field) -> bool:
    return field.pointer and field.count is None and field.size == 8
