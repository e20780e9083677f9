"""VMAs that a writer has locked: ``vm_lock_seq`` is the mm's ``mm_lock_seq`` (__is_vma_write_locked, since 6.4).

That says something only while the mmap lock is held for writing: what is left over in both stays equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel

_INT = np.uint64(0xFFFF_FFFF)


def write_locked(kernel: Kernel, mm: int, vmas: U64) -> U64:
    """Those of ``vmas``, which are of ``mm``, that are locked for writing; none for a kernel without such locks."""
    if not kernel.has("vm_area_struct", "vm_lock_seq") or not kernel.has("mm_struct", "mm_lock_seq"):
        return np.zeros(0, np.uint64)
    # An int, or since 6.13 a sequence counter, which is odd while there is a writer.
    own, ok = kernel.gather_member("mm_struct", "mm_lock_seq.sequence|mm_lock_seq", np.array([mm], np.uint64))
    theirs, read = kernel.gather_member("vm_area_struct", "vm_lock_seq", vmas)
    locked: U64 = vmas[read & np.bool_(ok[0]) & ((theirs & _INT) == (own[0] & _INT))]
    return locked
