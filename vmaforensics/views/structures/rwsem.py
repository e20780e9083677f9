"""Who holds a ``struct rw_semaphore`` (kernel/locking/rwsem.c; with PREEMPT_RT, kernel/locking/rwbase_rt.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.structures.lock import Lock

if TYPE_CHECKING:
    from vmaforensics.columns.types import U8, U64, Bools
    from vmaforensics.kernel.kernel import Kernel

# A writer holds bit 0, readers count from bit 8; the bits between are flags of those who wait.
_WRITER_LOCKED, _READER_BITS = np.uint64(1), ~np.uint64(0xFF)
# PREEMPT_RT: an int, READER_BIAS plus readers, or WRITER_BIAS while a writer holds it.
_INT, _READER_BIAS, _WRITER_BIAS = np.uint64(0xFFFFFFFF), np.uint64(1 << 31), np.uint64(1 << 30)
_SIGN = np.uint64(1 << 63)  # RWSEM_FLAG_READFAIL: set by none that holds it


def lock_states(kernel: Kernel, struct: str, addresses: U64, member: str) -> U8:
    """The :class:`Lock` state of the rw_semaphore ``member`` of each ``struct``.

    UNKNOWN where it cannot be read, and for all where this kernel has another kind of lock there.
    """
    if kernel.has(struct, f"{member}.count.counter"):
        count, ok = kernel.gather_member(struct, f"{member}.count.counter", addresses)
        writer = (count & _WRITER_LOCKED) != 0
        readers = ((count & _SIGN) == 0) & ((count & _READER_BITS) != 0)
    elif kernel.has(struct, f"{member}.rwbase.readers.counter"):
        count, ok = kernel.gather_member(struct, f"{member}.rwbase.readers.counter", addresses)
        writer = (count & _INT) == _WRITER_BIAS
        readers = (count & _INT) != _READER_BIAS
    else:
        return np.full(len(addresses), Lock.UNKNOWN, np.uint8)
    held = np.where(writer, Lock.WRITE, np.where(readers, Lock.READ, Lock.FREE))
    return np.where(ok, held, Lock.UNKNOWN).astype(np.uint8)


def write_held(kernel: Kernel, struct: str, addresses: U64, member: str) -> Bools:
    """Is the rw_semaphore ``member`` of each ``struct`` held by a writer? False where that cannot be read."""
    held: Bools = lock_states(kernel, struct, addresses, member) == Lock.WRITE
    return held
