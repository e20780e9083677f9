"""The VMAs of every address space, over all indices, as parts of the document.

Columns become lists, lists become parts, each by one pass that runs in C; a batch at a time, for what lies between
columns and parts takes more room than either.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics.columns.lookup import rows_of, sort_order, values_at
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.report.document.document import Region, Seen
from vmaforensics.views.indices.entries import IndexEntries, union_of
from vmaforensics.views.view import View
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.words.permissions import vma_permissions
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from vmaforensics.columns.types import U64
    from vmaforensics.views.views import Views

_MINOR_BITS = 20
_BATCH = 1 << 15


def regions_by_mm(views: Views, mms: U64) -> dict[int, list[Region]]:
    """The regions of each of ``mms``, ascending, keyed by the address of the ``mm_struct``."""
    chosen = {view: _of_mms(entries, mms) for view, entries in views.regions().items()}
    union = union_of(chosen.values())
    slots = {view: _Slots(entries) for view, entries in chosen.items()}
    names = [printable(raw) for raw in views.names.strings]
    regions: list[Region] = []
    for low in range(0, len(union), _BATCH):
        regions += _regions(views, union.take(slice(low, low + _BATCH)), slots, names)
    first = run_starts(begins_run(union.mm))
    bounds = zip(first.tolist(), (run_lasts(first, len(union)) + 1).tolist(), strict=True)
    return {int(union.mm[low]): regions[low:high] for low, high in bounds}


def _of_mms(entries: IndexEntries, mms: U64) -> IndexEntries:
    wanted = np.isin(entries.mm, mms)
    return entries if wanted.all() else entries.take(wanted)


def _regions(views: Views, rows: IndexEntries, slots: Mapping[View, _Slots], names: Sequence[str]) -> Iterable[Region]:
    vmas = views.vmas.take(rows.vma_row)
    start, end = np.where(vmas.ok, vmas.start, rows.start), np.where(vmas.ok, vmas.end, rows.end)
    files = views.files.rows if views.files is not None else None
    dev = values_at(files.dev, vmas.file_row) if files is not None else np.zeros(len(vmas), np.uint32)
    inode = values_at(files.ino, vmas.file_row) if files is not None else np.zeros(len(vmas), np.uint64)
    return map(
        Region,
        map(hex, start.tolist()),
        map(hex, end.tolist()),
        _each(vmas.flags, vma_permissions),
        _each(vmas.flags, hex),
        map(hex, np.where(vmas.file != 0, views.arch.bytes_of(vmas.pgoff), np.uint64(0)).tolist()),
        _each(vmas.kind, lambda kind: Kind(kind).label),
        map(names.__getitem__, views.names.which[rows.vma_row].tolist()),
        _each(dev, lambda number: f"{number >> _MINOR_BITS:02x}:{number & ((1 << _MINOR_BITS) - 1):02x}"),
        inode.tolist(),
        map(hex, vmas.vma.tolist()),
        vmas.ok.tolist(),
        map(Seen, *(_slots_of(slots.get(view), rows) for view in (View.LIST, View.RBTREE, View.MAPLE))),
    )


def _each(values: NDArray[np.generic], text: Callable[[int], str]) -> Iterable[str]:
    """``text`` of every value, worked out once per distinct one."""
    distinct, inverse = np.unique(values, return_inverse=True)
    texts = [text(value) for value in distinct.tolist()]
    return map(texts.__getitem__, inverse.tolist())


class _Slots:
    """The words of an index that lead to VMAs, by the address of the VMA."""

    def __init__(self, entries: IndexEntries) -> None:
        self._entries = entries
        self._order = sort_order(entries.vma)
        self._vma = entries.vma[self._order]

    def of(self, rows: IndexEntries) -> Iterable[str | None]:
        """The word that leads to the same VMA in the same mm, None where none does."""
        row = values_at(self._order, rows_of(self._vma, rows.vma), -1)
        held = (row >= 0) & (values_at(self._entries.mm, row) == rows.mm)
        slots = map(hex, values_at(self._entries.slot, row).tolist())
        if held.all():
            return slots
        return [slot if here else None for slot, here in zip(slots, held.tolist(), strict=True)]


def _slots_of(slots: _Slots | None, rows: IndexEntries) -> Iterable[str | msgspec.UnsetType | None]:
    """As :meth:`_Slots.of`; unset where the kernel has no such index."""
    return repeat(msgspec.UNSET) if slots is None else slots.of(rows)
