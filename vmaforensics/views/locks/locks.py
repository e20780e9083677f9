"""Who holds a lock: the words of the lock itself.

mutex       ``owner``: the task, low bits flags (kernel/locking/mutex.h)
rw_semaphore
            ``count``: bit 0 a writer, bits 8 to 62 readers; ``owner``: a writer, or, with bit 0, the last reader that
            took it, which may have left long ago (kernel/locking/rwsem.c)
PREEMPT_RT  ``rtmutex.owner``, bit 0 a flag; readers are counted in ``rwbase.readers`` (kernel/locking/rwbase_rt.c)
semaphore   ``count``; ``last_holder`` where the kernel keeps it for hung tasks: likely, no more
completion  nothing: a vfork or the end of a kernel thread is known by the ``vfork_done`` of the task that ends
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import first_rows, rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U8, U32, U64, Bools
from vmaforensics.views.locks.kinds import LockKind

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.locks.waits import Waits

_TASK: Final = ~np.uint64(7)  # a task_struct is aligned better than any flag beside its address needs
_WRITER, _HAS_WAITERS, _HANDOFF, _FAIL = (np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(1 << 63))
_READER_SHIFT: Final = np.uint64(8)
_READER_OWNED: Final = np.uint64(1)
_BIAS, _WRITER_BIAS = np.uint64(1 << 31), np.uint64(1 << 30)  # READER_BIAS, WRITER_BIAS
_REFCNT_READERS: Final = np.uint32((1 << 30) - 1)


@table()
class Locks(Table):
    """A row for each lock, sorted by address and kind."""

    lock: U64  # address
    kind: U8  # LockKind
    owner: U64  # task_struct that holds it, or whose end is waited for; 0 for none, or none that is known
    last_reader: U64  # task_struct that took it for reading last: a hint, it may be gone
    readers: I64  # that hold it now
    writer: Bools  # of a lock with readers and writers: is it held for writing?
    waiters: Bools  # does the lock say that somebody waits?
    handoff: Bools  # is it set aside for who waits longest?
    held: Bools
    likely: Bools  # the owner is only likely
    ok: Bools  # False: not in the image


@table(struct="rw_semaphore")
class _Rwsems(Table):
    count: U64 = member("count.counter?")
    owner: U64 = member("owner.counter?")
    rt_readers: U32 = member("rwbase.readers.counter?")
    rt_owner: U64 = member("rwbase.rtmutex.owner?")


@table(struct="mutex")
class _Mutexes(Table):
    owner: U64 = member("owner.counter?")
    rt_owner: U64 = member("rtmutex.owner?")


@table(struct="semaphore")
class _Semaphores(Table):
    count: U32 = member("count")
    last_holder: U64 = member("last_holder?")


@table(struct="completion")
class _Completions(Table):
    done: U32 = member("done")


@table(struct="vm_area_struct")
class _Vmas(Table):
    refcnt: U32 = member("vm_refcnt.refs.counter?")


def read_locks(kernel: Kernel, waits: Waits, mms: U64, tasks: U64) -> Locks:
    """The locks that ``waits`` are for, and the mmap locks of ``mms``. ``tasks`` are all that are known."""
    known = waits.take(waits.lock != 0)
    mmap_locks = _mmap_locks(kernel, mms)
    addresses = np.concatenate([known.lock, mmap_locks])
    kinds = np.concatenate([known.kind, np.full(len(mmap_locks), LockKind.RWSEM, np.uint8)])
    first = first_rows(addresses)
    locks = Locks.zeros(len(first))
    locks.lock[:], locks.kind[:] = addresses[first], kinds[first]
    for kind, read in _READERS.items():
        rows = np.flatnonzero(locks.kind == kind)
        if len(rows):
            read(kernel, locks, rows)
    _vforks(kernel, locks, tasks)
    return locks


def _mmap_locks(kernel: Kernel, mms: U64) -> U64:
    """The mmap lock of each mm; before 5.8 it is called mmap_sem."""
    for name in ("mmap_lock", "mmap_sem"):
        if kernel.has("mm_struct", name):
            return mms + np.uint64(kernel.offset("mm_struct", name))
    return np.zeros(0, np.uint64)


def _read_rwsems(kernel: Kernel, locks: Locks, rows: I64) -> None:
    words, locks.ok[rows] = kernel.gather(_Rwsems, locks.lock[rows])
    if kernel.has("rw_semaphore", "rwbase.readers.counter"):
        writer = words.rt_readers == np.uint32(_WRITER_BIAS)
        readers = words.rt_readers.astype(np.int64) - np.int64(_BIAS)
        # A writer that waits for readers has taken the bias away already.
        leaving = (words.rt_readers < np.uint32(_WRITER_BIAS)) & (words.rt_readers != 0)
        readers = np.where(leaving, words.rt_readers.astype(np.int64), np.maximum(readers, 0))
        readers[writer] = 0
        owner = words.rt_owner & _TASK
        locks.waiters[rows] = (words.rt_owner & np.uint64(1)) != 0
        locks.owner[rows] = np.where(writer, owner, np.uint64(0))
    else:
        writer = (words.count & _WRITER) != 0
        failed = (words.count & _FAIL) != 0
        readers = np.where(failed, 0, (words.count & ~_FAIL) >> _READER_SHIFT).astype(np.int64)
        locks.waiters[rows] = (words.count & _HAS_WAITERS) != 0
        locks.handoff[rows] = (words.count & _HANDOFF) != 0
        reader = (words.owner & _READER_OWNED) != 0
        locks.owner[rows] = np.where(writer & ~reader, words.owner & _TASK, np.uint64(0))
        locks.last_reader[rows] = np.where(reader, words.owner & _TASK, np.uint64(0))
    locks.writer[rows], locks.readers[rows] = writer, readers
    locks.held[rows] = writer | (readers > 0)


def _read_mutexes(kernel: Kernel, locks: Locks, rows: I64) -> None:
    words, locks.ok[rows] = kernel.gather(_Mutexes, locks.lock[rows])
    word = words.owner | words.rt_owner  # a kernel has one of both
    locks.owner[rows], locks.waiters[rows] = word & _TASK, (word & np.uint64(1)) != 0
    locks.handoff[rows] = (words.owner & np.uint64(2)) != 0
    locks.held[rows] = locks.owner[rows] != 0


def _read_rt_mutexes(kernel: Kernel, locks: Locks, rows: I64) -> None:
    """rt_mutex and, with PREEMPT_RT, spinlocks: both begin with what has the owner."""
    struct = "rt_mutex_base" if kernel.types.struct("rt_mutex_base") is not None else "rt_mutex"
    word, locks.ok[rows] = kernel.gather_member(struct, "owner", locks.lock[rows])
    locks.owner[rows], locks.waiters[rows] = word & _TASK, (word & np.uint64(1)) != 0
    locks.held[rows] = locks.owner[rows] != 0


def _read_semaphores(kernel: Kernel, locks: Locks, rows: I64) -> None:
    words, locks.ok[rows] = kernel.gather(_Semaphores, locks.lock[rows])
    locks.held[rows] = words.count == 0
    locks.owner[rows] = np.where(words.count == 0, words.last_holder & _TASK, np.uint64(0))
    locks.likely[rows] = locks.owner[rows] != 0


def _read_completions(kernel: Kernel, locks: Locks, rows: I64) -> None:
    words, locks.ok[rows] = kernel.gather(_Completions, locks.lock[rows])
    locks.held[rows] = words.done == 0


def _read_vmas(kernel: Kernel, locks: Locks, rows: I64) -> None:
    """vm_refcnt: 1 for the VMA itself, one for each reader, and a bit of the writer that waits. Before: a semaphore."""
    if kernel.has("vm_area_struct", "vm_lock"):
        pointers, known = kernel.gather_member("vm_area_struct", "vm_lock", locks.lock[rows])
        semaphores = Locks.zeros(len(rows))
        semaphores.lock[:] = pointers + np.uint64(kernel.offset("vma_lock", "lock"))
        _read_rwsems(kernel, semaphores, np.arange(len(rows), dtype=np.int64))
        locks.ok[rows] = known & semaphores.ok
        for name in ("owner", "readers", "writer", "waiters", "handoff", "held"):
            getattr(locks, name)[rows] = getattr(semaphores, name)
        return
    words, locks.ok[rows] = kernel.gather(_Vmas, locks.lock[rows])
    readers = (words.refcnt & _REFCNT_READERS).astype(np.int64) - 1
    locks.readers[rows], locks.held[rows] = np.maximum(readers, 0), readers > 0


def _read_spinlocks(kernel: Kernel, locks: Locks, rows: I64) -> None:
    """qspinlock: the low byte is not 0 while it is locked; nothing says by whom."""
    data, ok = kernel.space.gather(locks.lock[rows], 4)
    locks.ok[rows], locks.held[rows] = ok, (data[:, 0] != 0)
    locks.waiters[rows] = data[:, 1:].any(axis=1)


_READERS = {
    LockKind.RWSEM: _read_rwsems,
    LockKind.MUTEX: _read_mutexes,
    LockKind.RT_MUTEX: _read_rt_mutexes,
    LockKind.RT_SPINLOCK: _read_rt_mutexes,
    LockKind.SEMAPHORE: _read_semaphores,
    LockKind.COMPLETION: _read_completions,
    LockKind.VMA: _read_vmas,
    LockKind.SPINLOCK: _read_spinlocks,
}


def _vforks(kernel: Kernel, locks: Locks, tasks: U64) -> None:
    """Completions that a task completes when it ends or calls execve: ``vfork_done`` names them (kernel/fork.c)."""
    rows = np.flatnonzero(locks.kind == LockKind.COMPLETION)
    if not len(rows) or not kernel.has("task_struct", "vfork_done"):
        return
    done, ok = kernel.gather_member("task_struct", "vfork_done", tasks)
    order = np.argsort(np.where(ok, done, np.uint64(0)), kind="stable")
    at = rows_of(done[order], locks.lock[rows])
    locks.owner[rows] = values_at(tasks[order], at)
