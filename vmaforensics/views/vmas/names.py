"""What ``/proc/PID/maps`` calls each VMA: get_vma_name and show_map_vma of fs/proc/task_mmu.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of, values_at
from vmaforensics.columns.texts import Texts
from vmaforensics.views.vmas.task_mmu import since_6_6
from vmaforensics.views.vmas.vmas import special

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.vmas.files import FileTable
    from vmaforensics.views.vmas.vmas import Vmas

_ANON_NAME_MAX = 80  # ANON_VMA_NAME_MAX_LEN, include/linux/mm.h
_SPECIAL_NAME_MAX = 64
_UNREADABLE = b"?"


class _Names:
    """Names as they are given to rows; a later one takes the place of an earlier one."""

    def __init__(self, count: int) -> None:
        self._strings = [b""]
        self._which = np.zeros(count, np.int32)

    def give(self, rows: Bools, name: bytes) -> None:
        """``name`` to the ``rows`` of a mask."""
        self.share(rows, [name], np.zeros(int(rows.sum()), np.int64))

    def share(self, rows: Bools, names: Sequence[bytes], which: I64) -> None:
        """One of ``names`` to each of the ``rows`` of a mask; ``which`` is as long as there are such rows."""
        self._which[rows] = which + len(self._strings)
        self._strings += names

    def texts(self) -> Texts:
        return Texts(self._strings, self._which)


def vma_names(kernel: Kernel, vmas: Vmas, mms: Mms, files: FileTable) -> Texts:
    """The name of each row of ``vmas``, in the kernel's order of precedence; empty for none.

    Names are raw bytes; only newlines are escaped, as the kernel does. A file whose path could not be
    read is ``?``.
    """
    names = _Names(len(vmas))
    no_file, has_anon_name = vmas.file == 0, vmas.anon_name != 0
    union = _shares_with_rmap(kernel)
    _give_anon_names(kernel, names, has_anon_name & no_file if union else has_anon_name, vmas.anon_name, b"[anon:%b]")
    _give_stack_and_heap(kernel, names, vmas, mms)
    names.give(vmas.ok & (vmas.mm == 0) & no_file, b"[vdso]")

    rows = vmas.ok & no_file & special(kernel, vmas.ops)
    known, which = np.unique(vmas.private[rows], return_inverse=True)
    names.share(rows, _special_names(kernel, known), which)

    rows = vmas.ok & ~no_file
    shown = [_UNREADABLE if path is None else path.replace(b"\n", b"\\012") for path in files.paths]
    names.share(rows, [_UNREADABLE, *shown], vmas.file_row[rows] + 1)
    if not union:
        _give_anon_names(kernel, names, rows & has_anon_name, vmas.anon_name, b"[anon_shmem:%b]")
    return names.texts()


def _give_stack_and_heap(kernel: Kernel, names: _Names, vmas: Vmas, mms: Mms) -> None:
    """vma_is_initial_stack and vma_is_initial_heap (include/linux/mm.h)."""
    mm = rows_of(mms.mm, vmas.mm)
    owned = vmas.ok & values_at(mms.ok, mm) & (vmas.file == 0)
    start_stack, start_brk, brk = (values_at(column, mm) for column in (mms.start_stack, mms.start_brk, mms.brk))
    names.give(owned & (vmas.start <= start_stack) & (vmas.end >= start_stack), b"[stack]")
    heap = owned & (vmas.start < brk) & (vmas.end > start_brk)
    touching = owned & (vmas.start <= brk) & (vmas.end >= start_brk)
    # vma_is_initial_heap came with 6.6; before, touching was enough.
    names.give(touching if (touching & ~heap).any() and not kernel.shared(since_6_6) else heap, b"[heap]")


def _special_names(kernel: Kernel, mappings: U64) -> list[bytes]:
    """special_mapping_name (mm/vma.c): the name in each vm_special_mapping, which is vm_private_data."""
    name, ok = kernel.gather_member("vm_special_mapping", "name", mappings)
    texts = kernel.strings(name, _SPECIAL_NAME_MAX)
    return [text or _UNREADABLE if known else _UNREADABLE for text, known in zip(texts, ok.tolist(), strict=True)]


def _shares_with_rmap(kernel: Kernel) -> bool:
    """In 5.17 to 6.1 ``anon_name`` lies in a union with ``shared``, so that a file's VMAs have none."""
    if not kernel.has("vm_area_struct", "anon_name"):
        return True
    return kernel.offset("vm_area_struct", "anon_name") == kernel.offset("vm_area_struct", "shared")


def _give_anon_names(kernel: Kernel, names: _Names, rows: Bools, pointers: U64, form: bytes) -> None:
    """PR_SET_VMA_ANON_NAME: what the anon_vma_name at each of ``pointers`` holds, in ``form``.

    A name that cannot be read: none at all for anonymous memory, ``?`` for shared.
    """
    known, which = np.unique(pointers[rows], return_inverse=True)
    if not len(known):
        return
    texts: list[bytes | None] = [None] * len(known)
    if kernel.has("anon_vma_name", "name"):
        texts = kernel.strings(known + np.uint64(kernel.offset("anon_vma_name", "name")), _ANON_NAME_MAX)
    unreadable = form % _UNREADABLE if b"shmem" in form else b""
    names.share(rows, [form % text if text else unreadable for text in texts], which)
