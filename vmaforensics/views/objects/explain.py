"""What 64-bit values lead to, in words for people; every text is printable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.views.objects.forms import forms
from vmaforensics.views.objects.frames import WRONG_MAPPING, frame_texts
from vmaforensics.views.objects.maps import owner_texts, read_map, users_of, vma_texts, vmas_at
from vmaforensics.views.objects.members import member_at
from vmaforensics.views.objects.places import Place, find_places
from vmaforensics.views.objects.things import task_texts, things
from vmaforensics.views.objects.typed import ObjectOf, struct_of
from vmaforensics.views.objects.values import error_text, poison_text, text_of
from vmaforensics.views.slab.objects import State
from vmaforensics.views.stacks.modules import module_symbols
from vmaforensics.words.amounts import amount
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.objects.places import FoundPlaces
    from vmaforensics.views.objects.surroundings import Surroundings
    from vmaforensics.views.objects.typed import Claim


_MOST_NAMED: Final = 3  # processes that have something at an address
_HIGHEST: Final = (1 << 64) - 1
# Structures of which a free object says nothing more: it is out of the tree that would.
_LINKED: Final = ("maple_node", "anon_vma", "anon_vma_chain")


@dataclass(slots=True, kw_only=True)
class Meaning:
    """What a value leads to."""

    value: int
    place: Place
    text: str  # "" for a number
    object: int | None = None  # address of the slab object, or of the struct page
    cache: str | None = None  # its cache
    struct: str | None = None
    size: int = 0  # bytes of the object
    offset: int = 0  # of the value in the object
    member: str | None = None  # that lies there
    state: State | None = None
    detail: str = ""  # what more is known of the object
    odd: bool = False  # what it leads to contradicts itself
    claim: Claim | None = None  # the pointer that says what the object is, where the name of its cache does not


def explain(surroundings: Surroundings, values: U64, mm: int | None = None) -> list[Meaning]:
    """What each of ``values`` leads to; user addresses are looked up in the map of ``mm``.

    ``mm`` is 0 where there is none, and None for that of any process. What no VMA holds is a number, unless it lies
    among those of ``mm``.
    """
    found = find_places(surroundings, values)
    places = found.places
    meanings = [
        Meaning(value=value, place=Place(place), text="")
        for value, place in zip(values.tolist(), places.place.tolist(), strict=True)
    ]
    for place, tell in _TELLERS:
        rows = np.flatnonzero(places.place == place)
        if len(rows):
            for row, text in zip(rows.tolist(), tell(surroundings, found, rows), strict=True):
                meanings[row].text = text
    rows = np.flatnonzero(places.place == Place.USER)
    for row, text in zip(rows.tolist(), _user(surroundings, values[rows], mm), strict=True):
        meanings[row].text = text
    for row in np.flatnonzero(places.place == Place.PAGE).tolist():
        meaning = meanings[row]
        meaning.object, meaning.struct = int(places.start[row]), "page"
        meaning.odd = WRONG_MAPPING in meaning.text
        meaning.size, meaning.offset = int(places.end[row]) - meaning.object, meaning.value - meaning.object
    arch = surroundings.kernel.arch
    for meaning in meanings:
        if meaning.place == Place.ERROR:
            meaning.text = error_text(meaning.value)
        elif meaning.place == Place.POISON:
            meaning.text = poison_text(arch, meaning.value)
        elif meaning.place == Place.TEXT:
            meaning.text = f'the text "{printable(text_of(meaning.value))}", no address'
        elif meaning.place == Place.NON_CANONICAL:
            meaning.text = "non-canonical: no address on this CPU"
        elif meaning.place == Place.UNMAPPED:
            meaning.text = "an address of the kernel's half that no page table maps"
        elif meaning.place == Place.MAPPED:
            meaning.text = "mapped memory of the kernel"
    _objects(surroundings, found, meanings)
    return meanings


def _objects(surroundings: Surroundings, found: FoundPlaces, meanings: list[Meaning]) -> None:
    """Fill in what values say that lie in slabs."""
    kernel, known = surroundings.kernel, found.objects.places
    by_struct: dict[str, list[int]] = {}
    for row, meaning in enumerate(meanings):
        if meaning.place not in (Place.OBJECT, Place.SLAB):
            continue
        cache = int(known.cache[row])
        meaning.cache = printable(found.objects.names[cache])
        if meaning.place == Place.SLAB:
            meaning.text = f"in a slab of cache {meaning.cache}, outside of its objects"
            continue
        meaning.object = int(known.start[row])
        meaning.size = int(found.objects.caches.object_size[cache])
        meaning.offset = meaning.value - meaning.object
        meaning.state = State(int(known.state[row]))
        kinds = int(found.objects.caches.users[cache])
        of = ObjectOf(meaning.object, meaning.cache, meaning.size, kinds)
        meaning.struct, meaning.claim = struct_of(kernel, lambda: surroundings.pointers, of)
        if meaning.struct is not None:
            by_struct.setdefault(meaning.struct, []).append(row)
    for struct, rows in by_struct.items():
        starts, which = np.unique(known.start[rows], return_inverse=True)
        details = things(surroundings, struct, starts)
        read_as = forms(surroundings, struct, starts)
        for row, at in zip(rows, which.reshape(-1).tolist(), strict=True):
            meaning = meanings[row]
            if meaning.state != State.FREE or struct not in _LINKED:
                meaning.detail = details[at]
            if meaning.offset:
                form = read_as[at]
                meaning.member = member_at(kernel.types, form.struct, meaning.offset, unused=form.unused)
    for row, meaning in enumerate(meanings):
        if meaning.place == Place.OBJECT:
            users = int(found.objects.caches.users[int(known.cache[row])])
            meaning.text = object_text(meaning, place=int(known.place[row]), users=users)


def object_text(meaning: Meaning, *, place: int, users: int) -> str:
    """``allocated vm_area_struct 0xffff…+0x10 (.vm_mm): 7f…-7f… r-xp /usr/lib/libc.so.6 of pid 88 (bash)``.

    ``place`` is that on a list of free objects, 0 for none; ``users`` how many kinds of objects share the cache.
    """
    state = "" if meaning.state is None else meaning.state.text
    if meaning.state == State.FREE:
        # What is free and on no list is in one of the arrays that CPUs and nodes keep since 6.18.
        state = f"free ({_ordinal(place)} on its free list)" if place else "free (in a sheaf)"
    what = meaning.struct or f"object of cache {meaning.cache}"
    text = f"{state} {what} {meaning.object:#x}"
    if meaning.offset:
        text += f"+{meaning.offset:#x}" + (f" (.{meaning.member})" if meaning.member else "")
    if meaning.claim is not None:
        text += f", {meaning.claim.text} (cache {meaning.cache})"
    elif users > 1 and not meaning.detail:
        text += f" (the cache holds {users} kinds of objects)"
    if meaning.detail:
        text += f": {'was ' if meaning.state == State.FREE else ''}{meaning.detail}"
    return text


def _ordinal(number: int) -> str:
    """
    >>> _ordinal(1), _ordinal(12), _ordinal(23)
    ('1st', '12th', '23rd')
    """
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def _user(surroundings: Surroundings, values: U64, mm: int | None) -> list[str]:
    """The VMA of the process that holds each address."""
    if mm is None:
        return _of_anybody(surroundings, values)
    if mm == 0:
        return [""] * len(values)
    of = read_map(surroundings, mm)
    lowest, highest = int(of.entries.start.min(initial=_HIGHEST)), int(of.entries.end.max(initial=0))
    vmas = vmas_at(of, values)
    owner = owner_texts(surroundings, np.array([mm], np.uint64))[0]
    texts = []
    for value, vma, text in zip(values.tolist(), vmas.tolist(), vma_texts(surroundings, vmas), strict=True):
        if not vma and not lowest <= value < highest:
            texts.append("")
        elif not vma:
            texts.append(f"a user address outside of every VMA of {owner}")
        else:
            texts.append(f"a user address in {text or f'the range of a VMA that cannot be read, {vma:#x}, of {owner}'}")
    return texts


def _of_anybody(surroundings: Surroundings, values: U64) -> list[str]:
    """Whose address each may be; nothing where no process has anything there."""
    texts = []
    for vmas in users_of(surroundings, values):
        named = vma_texts(surroundings, vmas[:_MOST_NAMED])
        more = f", and of {len(vmas) - len(named):,} more" if len(vmas) > len(named) else ""
        texts.append(f"a user address in {'; in '.join(named)}{more}" if named else "")
    return texts


def _stacks(surroundings: Surroundings, found: FoundPlaces, rows: I64) -> list[str]:
    """Whose stack it is."""
    stacks = surroundings.stacks.take(found.places.row[rows])
    tasks = task_texts(surroundings, stacks.task)
    return [
        f"stack of {task}" if of else f"{surroundings.stack_names[kind]} stack of CPU {cpu}"
        for task, of, kind, cpu in zip(
            tasks, stacks.task.tolist(), stacks.kind.tolist(), stacks.cpu.tolist(), strict=True
        )
    ]


def _symbols(surroundings: Surroundings, found: FoundPlaces, rows: I64) -> list[str]:
    """``name+offset/size`` in the kernel image."""
    symbols = surroundings.kernel.symbols.by_address()
    places = found.places.take(rows)
    return [
        f"{printable(symbols.name(row))}+{value - start:#x}/{end - start:#x}"
        for value, start, end, row in zip(
            places.value.tolist(), places.start.tolist(), places.end.tolist(), places.row.tolist(), strict=True
        )
    ]


def _modules(surroundings: Surroundings, found: FoundPlaces, rows: I64) -> list[str]:
    """``name+offset [module]``."""
    places, modules = found.places.take(rows), surroundings.modules
    texts = [""] * len(rows)
    for module in distinct(places.row).tolist():
        mine = np.flatnonzero(places.row == module)
        symbols = module_symbols(surroundings.kernel, int(modules.module[module]))
        nearest = symbols.nearest(places.value[mine])
        for at, row, start in zip(mine.tolist(), nearest.row.tolist(), nearest.start.tolist(), strict=True):
            value, first = int(places.value[at]), int(places.start[at])
            name = f"[{printable(modules.name_of(module))}]"
            inside = row >= 0 and start >= first
            texts[at] = f"{printable(symbols.name(row))}+{value - start:#x} {name}" if inside else f"memory of {name}"
    return texts


def _per_cpu(surroundings: Surroundings, found: FoundPlaces, rows: I64) -> list[str]:
    """The per-CPU variable, or that it was allocated."""
    symbols = surroundings.kernel.symbols.by_address()
    places = found.places.take(rows)
    ranges = surroundings.per_cpu.take(places.row)
    with np.errstate(over="ignore"):
        nearest = symbols.nearest(places.value - ranges.base)
        offset = places.value - ranges.base - nearest.start
    texts = []
    for row in range(len(rows)):
        cpu, symbol = int(ranges.cpu[row]), int(nearest.row[row])
        if places.value[row] < ranges.static[row] and symbol >= 0:
            texts.append(f"{printable(symbols.name(symbol))}+{int(offset[row]):#x} of CPU {cpu} (per-CPU)")
        else:
            texts.append(f"per-CPU memory of CPU {cpu}, allocated while running")
    return texts


def _pages(surroundings: Surroundings, found: FoundPlaces, rows: I64) -> list[str]:
    """The frame that a struct page describes."""
    places = found.places.take(rows)
    texts = []
    for frame, value, start, text in zip(
        places.row.tolist(),
        places.value.tolist(),
        places.start.tolist(),
        frame_texts(surroundings, places.row),
        strict=True,
    ):
        member = member_at(surroundings.kernel.types, "page", value - start) if value != start else None
        if member == "private" and text.startswith("page table"):
            member = "ptl"
        texts.append(f"struct page{f'.{member}' if member else ''} of frame {frame:#x}: {text}")
    return texts


def _frames(surroundings: Surroundings, found: FoundPlaces, rows: I64) -> list[str]:
    """The page of the direct map."""
    frames = found.places.row[rows]
    texts = frame_texts(surroundings, frames)
    return [f"in frame {frame:#x}: {text}" for frame, text in zip(frames.tolist(), texts, strict=True)]


def _areas(surroundings: Surroundings, found: FoundPlaces, rows: I64) -> list[str]:
    """The area, and who asked for it."""
    areas = found.areas.take(rows)
    symbols = surroundings.kernel.symbols.by_address()
    nearest = symbols.nearest(areas.caller)
    texts = []
    for row in range(len(areas)):
        start, end, caller = int(areas.start[row]), int(areas.end[row]), int(areas.caller[row])
        text = f"vmalloc area {start:#x}-{end:#x} ({amount(end - start)})"
        if caller and nearest.row[row] >= 0:
            text += f" for {printable(symbols.name(int(nearest.row[row])))}+{caller - int(nearest.start[row]):#x}"
        texts.append(text)
    return texts


_TELLERS: Final = (
    (Place.STACK, _stacks),
    (Place.SYMBOL, _symbols),
    (Place.MODULE, _modules),
    (Place.PER_CPU, _per_cpu),
    (Place.PAGE, _pages),
    (Place.FRAME, _frames),
    (Place.AREA, _areas),
)
