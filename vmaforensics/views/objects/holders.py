"""Where a value stands in memory: in which member of which object; and what it would be with one bit changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.views.objects.explain import explain
from vmaforensics.views.objects.members import begins_at
from vmaforensics.views.objects.places import Place, find_places
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.slab.any_cache import find_objects
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.structures.layout import Types
    from vmaforensics.views.objects.explain import Meaning
    from vmaforensics.views.objects.surroundings import Surroundings

_LARGEST = 1 << 14  # bytes of one object that are looked at
_MOST_OBJECTS = 64
_MOST_HOLDERS = 16
_TAGS = np.uint64(7)  # bits of a pointer that flags are kept in
_DEPTH = 8


class Span(NamedTuple):
    """Memory that is looked through."""

    start: int
    size: int


def words_with(kernel: Kernel, spans: Iterable[Span], value: int) -> list[int]:
    """Addresses of the words in ``spans`` that are ``value``, or that with flags in its lowest bits."""
    found: list[int] = []
    for start, size in list(spans)[:_MOST_OBJECTS]:
        count = min(size, _LARGEST) // 8
        words, ok = kernel.words(np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(8), 1)
        same = words[:, 0] & ~_TAGS == np.uint64(value & ~int(_TAGS)) if value else words[:, 0] == 0
        found += [start + 8 * place for place in np.flatnonzero(ok & same).tolist()]
    return found


def holders(surroundings: Surroundings, objects: Sequence[Meaning], value: int) -> list[Meaning]:
    """Which members of ``objects`` hold ``value``, which is not 0: what their words lead to, by address."""
    spans = [Span(start, size) for start, size in _spans(surroundings, objects)]
    at = np.array(words_with(surroundings.kernel, spans, value)[:_MOST_HOLDERS], np.uint64)
    return explain(surroundings, at) if len(at) else []


class NullMember(NamedTuple):
    """A pointer that is NULL and would lead to a structure with a member at an offset."""

    holder: Meaning  # the pointer
    struct: str  # it points to
    member: str  # at the offset


def null_pointers(surroundings: Surroundings, objects: Sequence[Meaning], offset: int) -> list[NullMember]:
    """Which pointers in ``objects`` are NULL and of a type whose structure has a member just at ``offset``."""
    kernel = surroundings.kernel
    found: list[NullMember] = []
    for start, size in _spans(surroundings, objects):
        struct = next(meaning.struct for meaning in objects if meaning.object == start)
        if struct is None:
            continue
        zeros = words_with(kernel, [Span(start, size)], 0)
        wanted = [
            (at, target, member)
            for at in zeros
            if (target := _pointed_to(kernel.types, struct, at - start)) is not None
            and (member := begins_at(kernel.types, target, offset)) is not None
        ]
        if wanted:
            holding = explain(surroundings, np.array([at for at, _, _ in wanted], np.uint64))
            found += [
                NullMember(holder, target, member) for holder, (_, target, member) in zip(holding, wanted, strict=True)
            ]
    return found[:_MOST_HOLDERS]


def _spans(surroundings: Surroundings, objects: Sequence[Meaning]) -> list[Span]:
    """The distinct slab objects among ``objects``, as far as their type goes."""
    spans: dict[int, Span] = {}
    for meaning in objects:
        if meaning.object is not None and meaning.object not in spans:
            spans[meaning.object] = Span(meaning.object, meaning.size)
    return list(spans.values())


def _pointed_to(types: Types, struct: str, offset: int) -> str | None:
    """The structure that the pointer at ``offset`` in ``struct`` points to; None if no such pointer stands there."""
    for _ in range(_DEPTH):
        layout = types.struct(struct)
        if layout is None:
            return None
        inner = ""
        for field in layout.fields.values():
            if field.pointer and field.offset == offset and field.struct and not field.bit_size:
                return field.struct
            if field.struct and not field.pointer and field.offset <= offset < field.offset + field.extent:
                inner, base = field.struct, field.offset
                if field.count is not None and field.size:
                    base += (offset - base) // field.size * field.size
        if not inner:
            return None
        struct, offset = inner, offset - base
    return None


def own_symbols(surroundings: Surroundings, value: int) -> list[int]:
    """``value`` with one bit changed, where that leads to the kernel's or a module's own code or data.

    To the beginning of a symbol, if any does: data is pointed to so, and functions.
    """
    flips = np.uint64(value) ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    places = find_places(surroundings, flips).places
    own = np.isin(places.place, (Place.SYMBOL, Place.MODULE))
    begin = own & (places.start == flips)
    found: list[int] = flips[begin if begin.any() else own].tolist()
    return found


class Nearly(NamedTuple):
    """What a value would lead to if one byte of it were another."""

    changed: int  # the bits that differ
    meaning: Meaning


def one_byte_off(surroundings: Surroundings, value: int) -> list[Nearly]:
    """The objects in use that ``value`` would lead to with one byte changed, those with fewest bits changed first.

    Of the kernel's and modules' own code and data, what it would lead to with one bit changed.
    """
    kernel = surroundings.kernel
    changes = np.uint64(0) + (
        np.arange(1, 256, dtype=np.uint64)[None, :] << (np.uint64(8) * np.arange(8, dtype=np.uint64)[:, None])
    ).reshape(-1)
    changed = np.uint64(value) ^ changes
    possible = kernel.arch.kernel_pointer(changed) & kernel.arch.canonical(changed)
    changes, changed = changes[possible], changed[possible]
    known = find_objects(kernel, changed, ProblemLog()).places
    at = np.flatnonzero((known.start == changed) & (known.state != State.FREE))
    meanings = explain(surroundings, changed[at])
    found = [Nearly(change, meaning) for change, meaning in zip(changes[at].tolist(), meanings, strict=True)]
    flips = own_symbols(surroundings, value)
    found += [
        Nearly(value ^ flip, meaning)
        for flip, meaning in zip(flips, explain(surroundings, np.array(flips, np.uint64)), strict=True)
    ]
    found.sort(key=lambda nearly: nearly.changed.bit_count())
    return found[:_MOST_HOLDERS]
