"""The VMAs of address spaces, whichever record leads to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, is_first, sort_order
from vmaforensics.columns.ragged import expand_ranges
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, I64, U8, U64, Bools
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from vmaforensics.views.views import Views
    from vmaforensics.views.vmas.vmas import Vmas


@table()
class ComparedVmas(Table):
    """A VMA of an address space that any record leads to; by mm, start and address of the ``vm_area_struct``.

    What index views lead to is in here as they have it, a VMA that is in two memory maps twice. The slab and the
    reverse maps add those that no index leads to. Members are those of :class:`Vmas`.
    """

    mm: U64  # mm_struct whose index holds it; of others, vm_mm
    mm_row: I32 = column(fill=-1)  # row of views.mms
    start: U64  # vm_start; where the VMA could not be read, as the index has it, or 0
    end: U64
    vma: U64
    ok: Bools  # the vm_area_struct could be read
    owner: U64  # vm_mm
    flags: U64
    pgoff: U64  # pages
    file: U64
    anon_vma: U64
    kind: U8  # Kind
    vma_row: I32 = column(fill=-1)  # row of views.vmas; -1: no index leads to it
    name: I32  # place in the names that go with the table


def compared_vmas(views: Views, mms: NDArray[np.uint64] | None = None) -> tuple[ComparedVmas, Sequence[bytes]]:
    """The VMAs of ``mms`` (None: of all address spaces), and the names that ``ComparedVmas.name`` is a place in."""
    parts, names = [indexed_vmas(views, mms)], views.names.strings
    for strays, called in _strays(views):
        chosen = np.flatnonzero(np.isin(strays.mm, views.mms.mm if mms is None else mms))
        if len(chosen):
            part = _of(strays, chosen)
            part.mm_row[:] = views.mm_rows(part.mm)
            part.name[:] = len(names) + np.arange(len(part))
            parts.append(part)
            names = [*names, *(called[row] for row in chosen.tolist())]
    vmas = ComparedVmas.concatenate(parts)
    if len(parts) > 1:
        # What two records know is here as the first of them has it.
        _, mm = np.unique(vmas.mm, return_inverse=True)
        _, vma = np.unique(vmas.vma, return_inverse=True)
        pair = mm.astype(np.int64) * (len(vma) + 1) + vma
        vmas = vmas.take((vmas.vma_row >= 0) | is_first(pair))
    return vmas.take(sort_order(vmas.mm, vmas.start, vmas.vma)), names


def indexed_vmas(views: Views, mms: NDArray[np.uint64] | None = None) -> ComparedVmas:
    """The VMAs that an index of ``mms`` (None: of all address spaces) leads to, by mm and start as the index has it;
    names are places in ``views.names.strings``."""
    union = views.union
    rows = np.arange(len(union)) if mms is None else rows_with_mm(union.mm, mms)
    vma_row, start, end = union.vma_row[rows], union.start[rows], union.end[rows]
    vmas = _of(views.vmas, vma_row)
    unread = ~vmas.ok
    vmas.mm[:] = union.mm[rows]
    vmas.start[unread], vmas.end[unread] = start[unread], end[unread]
    vmas.mm_row[:] = views.mm_rows(vmas.mm)
    vmas.vma_row[:], vmas.name[:] = vma_row, views.names.which[vma_row]
    return vmas


def rows_with_mm(owner: NDArray[np.uint64], mms: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Rows of the ascending ``owner`` that equal one of ``mms``, ascending."""
    wanted = distinct(mms)
    return expand_ranges(np.searchsorted(owner, wanted, "left"), np.searchsorted(owner, wanted, "right"))[1]


def _of(vmas: Vmas, rows: I32 | I64) -> ComparedVmas:
    """``rows`` of a table of VMAs, as members of the mm that their ``vm_mm`` names."""
    return ComparedVmas.of(
        mm=vmas.mm[rows],
        start=vmas.start[rows],
        end=vmas.end[rows],
        vma=vmas.vma[rows],
        ok=vmas.ok[rows],
        owner=vmas.mm[rows],
        flags=vmas.flags[rows],
        pgoff=vmas.pgoff[rows],
        file=vmas.file[rows],
        anon_vma=vmas.anon_vma[rows],
        kind=vmas.kind[rows],
    )


def _strays(views: Views) -> Iterator[tuple[Vmas, list[bytes]]]:
    """VMAs that no index leads to, by the record that does, and their names."""
    if views.strays is not None:
        strays = views.strays
        live = np.flatnonzero(strays.attached & (strays.state != State.FREE))
        yield strays.vmas.take(live), [strays.names[row] for row in live.tolist()]
    if views.rmap is not None:
        rmap = views.rmap
        stray = np.isin(rmap.vmas.vma, np.array(sorted(rmap.strays), np.uint64)) & rmap.vmas.ok
        vmas = rmap.vmas.take(stray)
        yield vmas, [rmap.strays[vma] for vma in vmas.vma.tolist()]
