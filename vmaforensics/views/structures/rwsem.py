"""Who holds a ``struct rw_semaphore``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.kernel.kernel import Kernel

_WRITER = 1  # RWSEM_WRITER_LOCKED, kernel/locking/rwsem.c
_WRITER_BIAS = 1 << 30  # kernel/locking/rwbase_rt.c: the whole count while a writer holds it


def write_held(kernel: Kernel, struct: str, addresses: U64, member: str) -> Bools:
    """Is the rw_semaphore ``member`` of each ``struct`` held by a writer? False where that cannot be read.

    A kernel with PREEMPT_RT has ``rwbase`` in place of ``count``.
    """
    if kernel.has(struct, f"{member}.count.counter"):
        count, ok = kernel.gather_member(struct, f"{member}.count.counter", addresses)
        held: Bools = ok & ((count & np.uint64(_WRITER)) != 0)
    elif kernel.has(struct, f"{member}.rwbase.readers.counter"):
        count, ok = kernel.gather_member(struct, f"{member}.rwbase.readers.counter", addresses)
        held = ok & (count & np.uint64(0xFFFFFFFF) == np.uint64(_WRITER_BIAS))
    else:
        held = np.zeros(len(addresses), np.bool_)
    return held
