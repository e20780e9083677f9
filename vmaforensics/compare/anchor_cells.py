"""The user addresses that the kernel remembers of a process, by the VMA they lie in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import bounds_of, sort_order
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U8, U64
from vmaforensics.compare.cells import AnchorCells, CellState
from vmaforensics.views.anchors.anchors import AUXV

if TYPE_CHECKING:
    from vmaforensics.compare.vmas import ComparedVmas
    from vmaforensics.views.views import Views

_REGISTERS = ("RIP", "RSP")  # of threads in user mode
_REMEMBERED = ("start_code", "start_data", "start_brk", "start_stack", "arg_start", "env_start", "vdso")  # of mm_struct
NAMES = (*_REGISTERS, *_REMEMBERED, *(f"AT_{name.upper()}" for name in AUXV))


@table()
class _Anchors(Table):
    """An address that the kernel remembers, by mm and address."""

    mm: U64
    address: U64
    name: U8  # place in NAMES


def anchor_cells(views: Views, vmas: ComparedVmas) -> AnchorCells:
    """Which anchors lie in each VMA; ``vmas`` are sorted by mm."""
    anchors = _anchors(views)
    cells = AnchorCells.zeros(len(vmas))
    starts = run_starts(begins_run(vmas.mm))
    for first, last in zip(starts.tolist(), run_lasts(starts, len(vmas)).tolist(), strict=True):
        rows = slice(first, last + 1)
        known = slice(*bounds_of(anchors.mm, vmas.mm[first]))
        address, name = anchors.address[known], anchors.name[known]
        low, high = np.searchsorted(address, vmas.start[rows]), np.searchsorted(address, vmas.end[rows])
        for at in np.flatnonzero(high > low).tolist():  # no more than there are anchors, unless VMAs overlap
            cells.state[first + at] = CellState.HELD
            cells.names[first + at] = np.bitwise_or.reduce(np.uint32(1) << name[low[at] : high[at]].astype(np.uint32))
    return cells


def anchor_names(bits: int) -> list[str]:
    """The names that a value of ``AnchorCells.names`` stands for."""
    return [name for bit, name in enumerate(NAMES) if bits >> bit & 1]


def _anchors(views: Views) -> _Anchors:
    """The anchors of every address space that are set."""
    assert views.anchors is not None
    threads, auxv, mms = views.anchors.threads, views.anchors.mms, views.mms
    threads = threads.take(threads.user)
    columns = [(threads.mm, threads.ip), (threads.mm, threads.sp)]
    remembered = (
        mms.start_code,
        mms.start_data,
        mms.start_brk,
        mms.start_stack,
        mms.arg_start,
        mms.env_start,
        mms.vdso,
    )
    columns += [(mms.mm, value) for value in (*remembered, *auxv.auxv_values().values())]
    parts = [
        _Anchors.of(mm=mm[value != 0], address=value[value != 0], name=np.full(int((value != 0).sum()), at))
        for at, (mm, value) in enumerate(columns)
    ]
    anchors = _Anchors.concatenate(parts)
    return anchors.take(sort_order(anchors.mm, anchors.address))
