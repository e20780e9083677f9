"""VMAs that exec itself mapped, and that stay until the program ends: its own code, that of its interpreter, the vDSO.

``load_elf_binary`` (fs/binfmt_elf.c) maps them and notes in the auxiliary vector where; what of them is not writable
nobody maps, unmaps or changes after that. So such a VMA was there, as it is, from one of the records that speak of this
program to another, whatever else its process mapped and unmapped meanwhile: the mm_struct, which has the vector; the
VMA itself; a thread that uses the mm_struct and has not begun to exit. It takes no number of changes, and so holds for
every kernel.

The mm_struct has to have been this program's: of a process that is older than the acquisition and lives, and in an
address space that is another each time. A program that is mapped where each of its kind is proves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.held import lives_long
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.checks.reading import Reading
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.views.vmas.vmas import Vmas

_NOWHERE = (1 << 64) - 1


class OfProgram:
    """Asks what exec mapped."""

    def __init__(self, context: Context, reading: Reading) -> None:
        views, clocks = context.views, context.acquisition.clocks
        assert clocks is not None
        self._views, self._places = views, clocks.places
        first = np.full((2, len(views.mms)), _NOWHERE, np.uint64)  # where the file of each begins in memory
        vdso = np.full(len(views.mms), _NOWHERE, np.uint64)
        says = np.full(len(views.mms), _NOWHERE, np.uint64)
        if views.anchors is not None:
            rows, arch = views.anchors.mms, views.arch
            known = rows.ok & (rows.base != 0) & lives_long(context)  # with an interpreter: at another place each time
            known &= reading.each_lives(views.mms.mm)
            first[0, known], first[1, known] = arch.page_bases(rows.phdr[known]), rows.base[known]
            vdso[known] = rows.sysinfo_ehdr[known]
            says[known] = clocks.places.each(rows.auxv[known])
        self._vdso = vdso
        self._first, self._begin, self._end = first, says, np.where(says == _NOWHERE, np.uint64(0), says)
        tasks, row = views.tasks, views.mm_rows(views.tasks.mm)
        users = np.flatnonzero((row >= 0) & tasks.ok & (values_at(says, row, _NOWHERE) != _NOWHERE))
        places = clocks.places.each(tasks.task[users])
        np.minimum.at(self._begin, row[users], places)
        np.maximum.at(self._end, row[users], places)

    def through(self, vmas: Vmas, word: U64) -> Bools:
        """Was each of ``vmas`` there, as it is, when the word at a physical address was read?"""
        row, arch = self._views.mm_rows(vmas.mm), self._views.arch
        with np.errstate(over="ignore"):
            first = vmas.start - arch.bytes_of(vmas.pgoff)
        own: Bools = np.logical_or.reduce([values_at(column, row, _NOWHERE) == first for column in self._first])
        own &= vmas.file != 0
        own |= (vmas.kind == Kind.SPECIAL) & (values_at(self._vdso, row, _NOWHERE) == vmas.start)
        own &= vmas.ok & (row >= 0) & (vmas.anon_vma == 0) & ((vmas.flags & np.uint64(flags.VM_WRITE)) == 0)
        at = self._places.each(vmas.vma)
        began = np.minimum(at, values_at(self._begin, row, _NOWHERE))
        same: Bools = own & (began <= word) & (word <= np.maximum(at, values_at(self._end, row)))
        return same
