"""The VMAs of every address space, over all indices, as parts of the document.

They are made from columns a few thousand at a time: columns become lists, lists become parts, each by one pass that
runs in C, and equal texts are one object.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vmaforensics.checks.context import Context
from vmaforensics.columns.lookup import values_at
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.compare.index_cells import index_cells
from vmaforensics.compare.vmas import indexed_vmas, rows_with_mm
from vmaforensics.report.document.parts import Region, Seen
from vmaforensics.views.view import View
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.words.permissions import vma_permissions
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from vmaforensics.compare.cells import IndexCells
    from vmaforensics.compare.vmas import ComparedVmas
    from vmaforensics.views.views import Views

_MINOR_BITS = 20
_AT_ONCE = 1 << 14  # VMAs


def regions_by_mm(views: Views, mms: NDArray[np.uint64]) -> dict[int, list[Region]]:
    """The regions of each of ``mms``, ascending, keyed by the address of the ``mm_struct``."""
    parts, context = _Parts(views), Context(views)
    regions: dict[int, list[Region]] = {}
    for group in _groups(views, mms):
        vmas = indexed_vmas(views, group)
        made = parts.regions(vmas, index_cells(context, vmas, group))
        starts = run_starts(begins_run(vmas.mm))
        lasts = run_lasts(starts, len(vmas))
        for mm, first, last in zip(vmas.mm[starts].tolist(), starts.tolist(), lasts.tolist(), strict=True):
            regions[mm] = made[first : last + 1]
    return regions


def _groups(views: Views, mms: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
    """``mms`` that have VMAs, ascending, in groups of about as many VMAs as are made at once."""
    owner = views.union.mm
    known, count = np.unique(owner[rows_with_mm(owner, mms)], return_counts=True)
    group = (np.cumsum(count) - count) // _AT_ONCE
    starts = run_starts(begins_run(group))
    for first, last in zip(starts.tolist(), run_lasts(starts, len(known)).tolist(), strict=True):
        yield known[first : last + 1]


class _Shared:
    """Texts of values that many VMAs share, each made once and kept as one object."""

    def __init__(self, text: Callable[[Any], str]) -> None:
        self._text = text
        self._known: dict[Any, str] = {}

    def texts(self, values: list[Any]) -> Iterable[str]:
        """The text of each of ``values``."""
        for value in set(values) - self._known.keys():
            self._known[value] = self._text(value)
        return map(self._known.__getitem__, values)


class _Parts:
    """Makes the regions of some VMAs after the other."""

    def __init__(self, views: Views) -> None:
        self._arch = views.arch
        self._names = [printable(name) for name in views.names.strings]
        self._file_row = views.vmas.file_row
        # Of each file, and at the end, which is row -1, of none.
        dev, inode = ([], []) if views.files is None else (views.files.rows.dev.tolist(), views.files.rows.ino.tolist())
        self._devices, self._inodes = [_device(number) for number in (*dev, 0)], [*inode, 0]
        self._permissions = _Shared(vma_permissions)
        self._flags, self._offsets = _Shared(hex), _Shared(hex)
        self._kinds = _Shared(lambda kind: Kind(kind).label)

    def regions(self, vmas: ComparedVmas, indices: dict[View, IndexCells]) -> list[Region]:
        """A region for each of ``vmas``, which an index leads to; ``indices`` are their cells."""
        start, end = _bounds(vmas)
        flags = vmas.flags.tolist()
        offsets = np.where(vmas.file != 0, self._arch.bytes_of(vmas.pgoff), np.uint64(0))
        files = values_at(self._file_row, vmas.vma_row, fill=-1).tolist()
        addresses = vmas.vma.tolist()
        texts = list(map(hex, addresses))
        return list(
            map(
                Region,
                start,
                end,
                self._permissions.texts(flags),
                self._flags.texts(flags),
                self._offsets.texts(offsets.tolist()),
                self._kinds.texts(vmas.kind.tolist()),
                map(self._names.__getitem__, vmas.name.tolist()),
                map(self._devices.__getitem__, files),
                map(self._inodes.__getitem__, files),
                texts,
                vmas.ok.tolist(),
                map(
                    Seen,
                    *(_slots(indices.get(view), addresses, texts) for view in (View.LIST, View.RBTREE, View.MAPLE)),
                ),
            )
        )


def _device(number: int) -> str:
    return f"{number >> _MINOR_BITS:02x}:{number & ((1 << _MINOR_BITS) - 1):02x}"


def _bounds(vmas: ComparedVmas) -> tuple[list[str], list[str]]:
    """Hexadecimal texts of starts and ends; where a VMA begins at the end of the one before, they share one."""
    end = list(map(hex, vmas.end.tolist()))
    meets = np.zeros(len(vmas), np.bool_)
    meets[1:] = vmas.start[1:] == vmas.end[:-1]
    before = ["", *end[:-1]]
    start = [
        text if same else hex(at) for at, text, same in zip(vmas.start.tolist(), before, meets.tolist(), strict=True)
    ]
    return start, end


def _slots(
    cells: IndexCells | None, addresses: list[int], texts: list[str]
) -> Iterable[str | msgspec.UnsetType | None]:
    """The word of an index that leads to each VMA, None where none does; unset where the kernel has no such index.

    Where it is the address of the VMA, of which there is a text, it is that text.
    """
    if cells is None:
        return repeat(msgspec.UNSET)
    return [
        text if slot == address else hex(slot) if slot else None
        for slot, address, text in zip(cells.slot.tolist(), addresses, texts, strict=True)
    ]
