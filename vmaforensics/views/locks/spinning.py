"""Which spinlock a CPU spins for: a register of the code that spins leads to it.

Nothing else names the lock, and nothing at all who holds it (kernel/locking/qspinlock.c): so this is likely, no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.views.locks.kinds import LockKind, Proof

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.locks.places import Places
    from vmaforensics.views.locks.waiters import Stretch
    from vmaforensics.views.locks.waits import Waits
    from vmaforensics.views.stacks.stacks import StacksView

_LOCKED: Final = 1  # _Q_LOCKED_VAL
_UNUSED: Final = 0xFE00  # bits of the word that are never set, with fewer than 16,384 CPUs


def find_spinlocks(kernel: Kernel, view: StacksView, places: Places, stretch: Stretch, waits: Waits) -> None:
    """Write the lock of each place that spins into ``waits``: the locked word that most registers lead to."""
    for row in np.flatnonzero(places.kind == LockKind.SPINLOCK).tolist():
        values = _registers(kernel, view, int(places.frame[row]))
        values = values[kernel.arch.kernel_pointer(values) & (values % np.uint64(4) == 0)]
        values, count = np.unique(values[stretch.task_at(values) == 0], return_counts=True)
        data, ok = kernel.space.gather(values, 4)
        word = data.view("<u4")[:, 0]
        usable = ok & ((word & np.uint32(0xFF)) == _LOCKED) & ((word & np.uint32(_UNUSED)) == 0)
        best = np.flatnonzero(usable & (count == count[usable].max(initial=0)))
        if len(best) == 1:
            waits.lock[row], waits.proof[row] = values[best[0]], Proof.REGISTER


def _registers(kernel: Kernel, view: StacksView, frame: int) -> U64:
    """The registers in a frame: those an interrupt saved, or those of the CPU; none where neither has them."""
    saved = int(view.frames.registers[frame])
    if saved:
        words, ok = kernel.words(np.array([saved], np.uint64), len(kernel.arch.register_words))
        return words[0] if ok[0] else np.zeros(0, np.uint64)
    state = int(view.state[int(view.frames.stack[frame])])
    if state >= 0 and view.frames.depth[frame] == 0:
        return np.array([word % (1 << 64) for word in view.states[state].words], np.uint64)
    return np.zeros(0, np.uint64)
