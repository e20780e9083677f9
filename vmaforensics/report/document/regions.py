"""The areas of every address space, over all views, as parts of the document.

Columns become lists, lists become parts, each by one pass that runs in C.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics.report.document.document import Region, Seen
from vmaforensics.views.indices.entries import union_of
from vmaforensics.views.view import View
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.words.permissions import vma_permissions
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from vmaforensics.columns.texts import Texts
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.views import Views

_MINOR_BITS = 20


def regions_by_mm(views: Views, mms: NDArray[np.uint64]) -> dict[int, list[Region]]:
    """The regions of each of ``mms``, ascending, keyed by the address of the ``mm_struct``."""
    indices = views.regions()
    chosen = {view: rows[np.isin(rows["mm"], mms)] for view, rows in indices.items()}
    rows = union_of(list(chosen.values()))
    at = rows["vma_row"]
    vmas = views.vmas[at]
    known = vmas["ok"]
    start, end = np.where(known, vmas["start"], rows["start"]), np.where(known, vmas["end"], rows["end"])
    dev, inode = _devices(views, vmas)
    regions = list(
        map(
            Region,
            map(hex, start.tolist()),
            map(hex, end.tolist()),
            _each(vmas["flags"], vma_permissions),
            _each(vmas["flags"], hex),
            map(hex, np.where(vmas["file"] != 0, vmas["pgoff"] << np.uint64(12), np.uint64(0)).tolist()),
            _each(vmas["kind"], lambda kind: Kind(kind).label),
            _names(views.names, at),
            _each(dev, lambda one: f"{one >> _MINOR_BITS:02x}:{one & ((1 << _MINOR_BITS) - 1):02x}"),
            inode.tolist(),
            map(hex, vmas["vma"].tolist()),
            known.tolist(),
            _seen(rows, chosen),
        )
    )
    edges = (np.flatnonzero(rows["mm"][1:] != rows["mm"][:-1]) + 1).tolist()
    bounds = zip([0, *edges], [*edges, len(rows)], strict=True) if len(rows) else []
    return {int(rows["mm"][low]): regions[low:high] for low, high in bounds}


def _each(values: NDArray[np.generic], text: object) -> Iterable[str]:
    """``text`` of every value, worked out once per distinct one."""
    assert callable(text)
    distinct, inverse = np.unique(values, return_inverse=True)
    table = np.array([text(one) for one in distinct.tolist()], dtype=object)
    texts: list[str] = table[inverse].tolist() if len(table) else []
    return texts


def _names(names: Texts, at: NDArray[np.int64]) -> Iterable[str]:
    shown = [printable(raw) for raw in names.strings]
    return map(shown.__getitem__, names.which[at].tolist())


def _devices(views: Views, vmas: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    files = views.files.rows if views.files is not None else None
    if files is None or not len(files):
        return np.zeros(len(vmas), np.int64), np.zeros(len(vmas), np.uint64)
    row = vmas["file_row"]
    dev = np.where(row >= 0, files["dev"][row], np.uint32(0)).astype(np.int64)
    return dev, np.where(row >= 0, files["ino"][row], np.uint64(0))


def _seen(rows: IndexEntries, chosen: dict[View, IndexEntries]) -> Iterable[Seen]:
    return map(
        Seen,
        _slots(rows, chosen.get(View.LIST)),
        _slots(rows, chosen.get(View.RBTREE)),
        _slots(rows, chosen.get(View.MAPLE)),
    )


def _slots(rows: IndexEntries, view: IndexEntries | None) -> Iterable[str | msgspec.UnsetType | None]:
    """Slot of each row in ``view``, None where it has none; unset where the kernel has no such view."""
    if view is None:
        return repeat(msgspec.UNSET)
    order = np.argsort(view["vma"], kind="stable")
    known = view[order]
    if not len(known):
        return [None] * len(rows)
    at = np.minimum(np.searchsorted(known["vma"], rows["vma"]), len(known) - 1)
    held = (known["vma"][at] == rows["vma"]) & (known["mm"][at] == rows["mm"])
    if held.all():
        return map(hex, known["slot"][at].tolist())
    slots = zip(known["slot"][at].tolist(), held.tolist(), strict=True)
    return [hex(slot) if here else None for slot, here in slots]
