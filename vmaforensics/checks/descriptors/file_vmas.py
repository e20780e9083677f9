"""The VMAs that map files in memory, and the processes that keep such files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import first_rows, values_at
from vmaforensics.views.indices.entries import union_of

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I32, U64


class FileVmas(NamedTuple):
    """Every VMA of every index view that maps a file in memory, once: parallel arrays."""

    vma_row: I32  # row of Views.vmas
    mapping: U64  # the address_space it maps


def file_vmas(context: Context) -> FileVmas:
    """The VMAs of the files and segments of ``Views.handles``. Ask for it by ``context.shared``."""
    views, handles = context.views, context.views.handles
    if handles is None or views.files is None:
        return FileVmas(np.zeros(0, np.int32), np.zeros(0, np.uint64))
    mapping = values_at(views.files.rows.mapping, views.vmas.file_row)
    wanted = np.concatenate([handles.memory_files.mapping, handles.segments.mapping])
    maps = np.isin(mapping, wanted[wanted != 0])
    union = union_of([entries.take(maps[entries.vma_row]) for entries in views.indices().values()])
    return FileVmas(union.vma_row, mapping[union.vma_row])


def mm_of_process(context: Context, pid: int) -> int:
    """The memory map of a process, 0 for none."""
    return context.shared(_mms_by_pid).get(pid, 0) if pid else 0


def _mms_by_pid(context: Context) -> dict[int, int]:
    """The memory map of the first thread of each process that has one."""
    tasks = context.views.tasks
    found = np.flatnonzero(tasks.ok & (tasks.mm != 0))
    found = found[first_rows(tasks.tgid[found])]
    return dict(zip(tasks.tgid[found].tolist(), tasks.mm[found].tolist(), strict=True))
