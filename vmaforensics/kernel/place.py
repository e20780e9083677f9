"""Where an earlier run found the kernel in an image: what the next one looks at first, and believes if it is there."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vmaforensics import cache
from vmaforensics.image.contents import contents_key
from vmaforensics.image.formats.raw import RawMemory
from vmaforensics.image.formats.segments import PHYSICAL_LIMIT
from vmaforensics.kernel.symbols import window

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.image import Image
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.symbols.kallsyms_tables import Tables
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo

_KIND = "kernel"
_SLACK = 1 << 12  # bytes around the tables that are read with them


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the symbol tables of a kernel lie, in bytes of physical memory, and which VMCOREINFO goes with them."""

    table: int  # address of the token table
    index: int  # from there to its index
    before: int  # what of the tables lies before the token table
    after: int  # and behind its beginning
    info: int | None  # address of VMCOREINFO in memory; None: the container's note, or there is none at all
    shift: int  # of a raw file: by how much the kernel lies above its place in the file
    sha256: str  # of the bytes that the tables lie in


def place_of(memory: PhysicalMemory, view: window.Window, tables: Tables, info: Vmcoreinfo | None) -> Place:
    """The place of the symbol tables in ``view``."""
    extents = window.extents(tables)
    low, high = min(start for start, _ in extents), max(end for _, end in extents)
    return Place(
        table=view.pa + tables.token_table,
        index=tables.token_index - tables.token_table,
        before=tables.token_table - low,
        after=high - tables.token_table,
        info=None if info is None else info.place,
        shift=memory.shift if isinstance(memory, RawMemory) else 0,
        sha256=_sha256(view, low, high),
    )


def tables_at(memory: PhysicalMemory, arch: Architecture, place: Place) -> tuple[window.Window, Tables] | None:
    """The symbol tables at ``place``; None unless the very bytes lie there that lay there then."""
    before, after = place.before + _SLACK, place.after + _SLACK
    found = window.tables_around(memory, place.table, place.index, arch, before, after)
    if found is None:
        return None
    view, tables = found
    at = place.table - view.pa
    low, high = at - place.before, at + place.after
    return found if low >= 0 and tables.token_table == at and _sha256(view, low, high) == place.sha256 else None


def _sha256(view: window.Window, low: int, high: int) -> str:
    return hashlib.sha256(view.data[low:high].data).hexdigest()


class Places:
    """What the cache has of one image, and is given of it."""

    def __init__(self, image: Image) -> None:
        # Asked for by number, the kernel is perhaps not the one meant; an excerpt keeps what a whole search has read.
        self._key = None if image.kernel is not None or image.memory.tracing else contents_key(image)
        self._known: Place | None = None
        self._image = image

    def before(self) -> Place | None:
        """Where an earlier run found the kernel; None if it is not known."""
        content = None if self._key is None else cache.load(_KIND, self._key)
        self._known = None if content is None else _believable(content, self._image.memory)
        return self._known

    def keep(self, place: Place | None) -> None:
        """Have later runs look there first. What was found in damaged pages is searched for each time, for how many of
        them were met is part of a report."""
        if self._key is not None and place is not None and place != self._known and not self._image.memory.problems():
            cache.keep(_KIND, self._key, asdict(place))


def _believable(content: dict[str, object], memory: PhysicalMemory) -> Place | None:
    """The place that an entry describes; None if no run can have written it."""
    try:
        place = Place(**content)  # type: ignore[arg-type]
    except TypeError:
        return None
    numbers = (place.table, place.index, place.before, place.after, 0 if place.info is None else place.info)
    if any(type(number) is not int or not 0 <= number < PHYSICAL_LIMIT for number in numbers):
        return None
    if type(place.shift) is not int or type(place.sha256) is not str:
        return None
    fits = isinstance(memory, RawMemory) and -memory.file_size < place.shift < PHYSICAL_LIMIT
    return place if place.shift == 0 or fits else None
