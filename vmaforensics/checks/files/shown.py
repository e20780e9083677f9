"""Who has a file: the address space and the VMA that a finding about a file is told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of, sort_order, values_at

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64, U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """For each of some files: the first process that maps it, or whose program it is, by pid."""

    mm: U64  # 0: nobody's that is known
    vma_row: I64  # -1: it is a program that is not mapped, or nobody's

    def bounds(self, context: Context, at: int) -> tuple[int, int] | None:
        """The range of the VMA."""
        vmas, row = context.views.vmas, int(self.vma_row[at])
        return None if row < 0 else (int(vmas.start[row]), int(vmas.end[row]))


def shown(context: Context, keys: U64, wanted: U64) -> Shown:
    """Who has a file with each of the keys ``wanted``; ``keys`` has that of each row of the file table."""
    views = context.views
    assert views.files is not None
    vmas, mms = views.vmas, views.mms
    mapped = np.flatnonzero(vmas.file_row >= 0)
    key, pid = keys[vmas.file_row[mapped]], values_at(mms.pid, views.mm_rows(vmas.mm[mapped]))
    order = sort_order(key, pid, vmas.mm[mapped], vmas.start[mapped])
    vma_row = values_at(mapped[order], rows_of(key[order], wanted), -1)
    programs = views.files.rows_of(mms.exe_file)
    some = np.flatnonzero(programs >= 0)
    order = some[sort_order(keys[programs[some]], mms.pid[some])]
    program = values_at(mms.mm[order], rows_of(keys[programs[order]], wanted))
    return Shown(mm=np.where(vma_row >= 0, values_at(vmas.mm, vma_row), program), vma_row=vma_row)
