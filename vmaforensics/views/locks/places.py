"""Where on a stack a task waits for a lock: the innermost frame of a function that does nothing else.

kernel/locking/{rwsem,mutex,semaphore,rtmutex,rwbase_rt,spinlock_rt}.c, kernel/sched/completion.c, mm/mmap_lock.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import first_rows, values_at
from vmaforensics.columns.ragged import expand_ranges
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, I64, U8, U64
from vmaforensics.views.locks.kinds import LockKind, Wants

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.stacks.stacks import StacksView

_DEEPEST: Final = 16  # frames in which a function that waits is looked for
_MOST_WORDS: Final = 192  # of one stack, from the stack pointer to the end of that function's frame
_NONE: Final = 255

_FUNCTIONS: Final = {
    "rwsem_down_read_slowpath": (LockKind.RWSEM, Wants.READ),
    "rwsem_down_write_slowpath": (LockKind.RWSEM, Wants.WRITE),
    "__rwbase_read_lock": (LockKind.RWSEM, Wants.READ),
    "rwbase_write_lock": (LockKind.RWSEM, Wants.WRITE),
    "__mutex_lock": (LockKind.MUTEX, Wants.IT),
    "__mutex_lock_common": (LockKind.MUTEX, Wants.IT),
    "__mutex_lock_slowpath": (LockKind.MUTEX, Wants.IT),
    "__mutex_lock_killable_slowpath": (LockKind.MUTEX, Wants.IT),
    "__mutex_lock_interruptible_slowpath": (LockKind.MUTEX, Wants.IT),
    "__ww_mutex_lock": (LockKind.MUTEX, Wants.IT),
    "__down": (LockKind.SEMAPHORE, Wants.IT),
    "__down_common": (LockKind.SEMAPHORE, Wants.IT),
    "__down_killable": (LockKind.SEMAPHORE, Wants.IT),
    "__down_interruptible": (LockKind.SEMAPHORE, Wants.IT),
    "__down_timeout": (LockKind.SEMAPHORE, Wants.IT),
    "rt_mutex_slowlock": (LockKind.RT_MUTEX, Wants.IT),
    "rt_mutex_slowlock_block": (LockKind.RT_MUTEX, Wants.IT),
    "__rt_mutex_slowlock": (LockKind.RT_MUTEX, Wants.IT),
    "__rt_mutex_slowlock_locked": (LockKind.RT_MUTEX, Wants.IT),
    "rtlock_slowlock_locked": (LockKind.RT_SPINLOCK, Wants.IT),
    "rtlock_slowlock": (LockKind.RT_SPINLOCK, Wants.IT),
    "__wait_for_common": (LockKind.COMPLETION, Wants.IT),
    "wait_for_common": (LockKind.COMPLETION, Wants.IT),
    "wait_for_completion": (LockKind.COMPLETION, Wants.IT),
    "wait_for_completion_killable": (LockKind.COMPLETION, Wants.IT),
    "wait_for_completion_interruptible": (LockKind.COMPLETION, Wants.IT),
    "wait_for_completion_timeout": (LockKind.COMPLETION, Wants.IT),
    "wait_for_completion_state": (LockKind.COMPLETION, Wants.IT),
    "__vma_enter_locked": (LockKind.VMA, Wants.WRITE),
    "__vma_exclude_readers": (LockKind.VMA, Wants.WRITE),
    "__vma_start_write": (LockKind.VMA, Wants.WRITE),
    "native_queued_spin_lock_slowpath": (LockKind.SPINLOCK, Wants.IT),
    "__pv_queued_spin_lock_slowpath": (LockKind.SPINLOCK, Wants.IT),
}
# What a task waits for whose waiter is that of an rt_mutex says who asked for that: the functions around.
_AROUND: Final = {
    "__rwbase_read_lock": (LockKind.RWSEM, Wants.READ),
    "rwbase_write_lock": (LockKind.RWSEM, Wants.WRITE),
    "down_read": (LockKind.RWSEM, Wants.READ),
    "down_read_killable": (LockKind.RWSEM, Wants.READ),
    "down_read_interruptible": (LockKind.RWSEM, Wants.READ),
    "down_write": (LockKind.RWSEM, Wants.WRITE),
    "down_write_killable": (LockKind.RWSEM, Wants.WRITE),
    "mutex_lock": (LockKind.MUTEX, Wants.IT),
    "mutex_lock_killable": (LockKind.MUTEX, Wants.IT),
    "mutex_lock_interruptible": (LockKind.MUTEX, Wants.IT),
    "__mutex_lock": (LockKind.MUTEX, Wants.IT),
    "rt_spin_lock": (LockKind.RT_SPINLOCK, Wants.IT),
}


@table()
class Places(Table):
    """Tasks that are in a function that waits for a lock; a row for each such stack, in the order of stacks."""

    stack: I32  # row of the stacks
    task: U64  # address of the task_struct
    frame: I64  # row of the frames: the function that waits
    kind: U8  # LockKind
    wants: U8  # Wants
    inner: U64  # stack pointer of the innermost frame
    low: U64  # stack pointer in the frame
    high: U64  # where the frame of its caller begins


@table()
class StackWords(Table):
    """Words of the stacks from the innermost frame to the end of the one that waits."""

    place: I64  # row of the places
    address: U64
    value: U64


def find_places(view: StacksView) -> Places:
    """Every task that is in a function that waits, by frames that are proven."""
    kinds, wants = _classify(view, _FUNCTIONS)
    frames = view.frames
    usable = frames.sure & (frames.depth < _DEEPEST) & (frames.function >= 0)
    usable &= values_at(kinds, frames.function, _NONE) != _NONE
    rows = np.flatnonzero(usable)
    rows = rows[first_rows(frames.stack[rows])]  # frames are sorted by depth: the innermost
    stacks = frames.stack[rows]
    after = np.minimum(rows + 1, max(len(frames) - 1, 0))
    ends = np.where(frames.stack[after] == stacks, frames.sp[after], frames.sp[rows] + np.uint64(8 * _MOST_WORDS))
    places = Places.of(
        stack=stacks,
        task=view.stacks.task[stacks],
        frame=rows,
        kind=kinds[frames.function[rows]],
        wants=wants[frames.function[rows]],
        inner=frames.sp[view.stacks.first[stacks]],
        low=frames.sp[rows],
        high=ends,
    )
    _look_around(view, places)
    return places


def _classify(view: StacksView, known: dict[str, tuple[LockKind, Wants]]) -> tuple[U8, U8]:
    """(LockKind or 255, Wants) of each function."""
    kinds = np.full(len(view.functions), _NONE, np.uint8)
    wants = np.zeros(len(view.functions), np.uint8)
    for row in range(len(view.functions)):
        # What follows a point tells apart what a compiler made of one function (.isra.0, .constprop.0).
        found = known.get(view.names[row].split(b".", 1)[0].decode("utf-8", "replace"))
        if found is not None:
            kinds[row], wants[row] = found
    return kinds, wants


def _look_around(view: StacksView, places: Places) -> None:
    """What those wait for who wait for an rt_mutex: with PREEMPT_RT other locks are made of it."""
    if not (places.kind == LockKind.RT_MUTEX).any():
        return
    kinds, wants = _classify(view, _AROUND)
    for row in np.flatnonzero(places.kind == LockKind.RT_MUTEX).tolist():
        stack = int(places.stack[row])
        end = int(view.stacks.first[stack] + view.stacks.count[stack])
        first = int(places.frame[row])
        near = view.frames.function[first : min(first + 4, end)]
        found = [int(function) for function in near.tolist() if function >= 0 and kinds[function] != _NONE]
        if found:
            places.kind[row], places.wants[row] = kinds[found[0]], wants[found[0]]


def read_words(kernel: Kernel, places: Places) -> StackWords:
    """The words of each place, as far as they could be read."""
    with np.errstate(over="ignore"):
        count = np.minimum((places.high - places.inner) >> np.uint64(3), np.uint64(_MOST_WORDS)).astype(np.int64)
    count[places.high <= places.inner] = _MOST_WORDS  # the stacks of an interrupt and of the task are apart
    place, number = expand_ranges(np.zeros(len(places), np.int64), count)
    begin = np.where(places.high <= places.inner, places.low, places.inner)
    with np.errstate(over="ignore"):
        address = begin[place] + number.astype(np.uint64) * np.uint64(8)
    words, ok = kernel.words(address, 1)
    return StackWords(place=place, address=address, value=words[:, 0]).take(ok)
