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
        self._files = None if views.files is None else views.files.rows
        self._file_row = views.vmas.file_row
        self._permissions = _Shared(vma_permissions)
        self._flags = _Shared(hex)
        self._kinds = _Shared(lambda kind: Kind(kind).label)
        self._devices = _Shared(lambda dev: f"{dev >> _MINOR_BITS:02x}:{dev & ((1 << _MINOR_BITS) - 1):02x}")
        self._inodes: dict[int, int] = {}

    def regions(self, vmas: ComparedVmas, indices: dict[View, IndexCells]) -> list[Region]:
        """A region for each of ``vmas``, which an index leads to; ``indices`` are their cells."""
        start, end = _hex_pair(vmas.start, vmas.end)
        flags = vmas.flags.tolist()
        dev, inode = self._device_and_inode(vmas)
        return list(
            map(
                Region,
                start,
                end,
                self._permissions.texts(flags),
                self._flags.texts(flags),
                _hex(np.where(vmas.file != 0, self._arch.bytes_of(vmas.pgoff), np.uint64(0))),
                self._kinds.texts(vmas.kind.tolist()),
                map(self._names.__getitem__, vmas.name.tolist()),
                self._devices.texts(dev),
                [self._inodes.setdefault(number, number) for number in inode],
                _hex(vmas.vma),
                vmas.ok.tolist(),
                map(Seen, *(_slots(indices.get(view)) for view in (View.LIST, View.RBTREE, View.MAPLE))),
            )
        )

    def _device_and_inode(self, vmas: ComparedVmas) -> tuple[list[int], list[int]]:
        """The device number and the inode number of the file of each VMA; 0 without a file."""
        if self._files is None:
            return [0] * len(vmas), [0] * len(vmas)
        row = values_at(self._file_row, vmas.vma_row, fill=-1)
        return values_at(self._files.dev, row).tolist(), values_at(self._files.ino, row).tolist()


def _hex(values: NDArray[np.uint64]) -> list[str]:
    """Hexadecimal texts, one object for equal ones."""
    distinct, place = np.unique(values, return_inverse=True)
    texts = list(map(hex, distinct.tolist()))
    return [texts[at] for at in place.tolist()]


def _hex_pair(start: NDArray[np.uint64], end: NDArray[np.uint64]) -> tuple[list[str], list[str]]:
    """Hexadecimal texts of both; where one VMA begins at the end of another, they share one."""
    texts = _hex(np.concatenate([start, end]))
    return texts[: len(start)], texts[len(start) :]


def _slots(cells: IndexCells | None) -> Iterable[str | msgspec.UnsetType | None]:
    """The word of an index that leads to each VMA, None where none does; unset where the kernel has no such index."""
    if cells is None:
        return repeat(msgspec.UNSET)
    return [hex(slot) if slot else None for slot in cells.slot.tolist()]
