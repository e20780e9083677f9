"""Which lock each task waits for, and how that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows, rows_of
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U8, U32, U64, Bools
from vmaforensics.views.locks.kinds import LockKind, Proof
from vmaforensics.views.locks.waiters import FORMS

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.locks.places import Places, StackWords
    from vmaforensics.views.locks.waiters import Form, Waiters

_RT_HELD = ~np.uint64(1)  # RT_MUTEX_HAS_WAITERS, kernel/locking/rtmutex_common.h
_MOST_CANDIDATES: Final = 1 << 20  # words of stacks that are held against locks
_MOST_WRITERS: Final = 1000  # that wait for readers of a VMA
# Where the rt_mutex lies in what is made of it with PREEMPT_RT.
_RT_PARTS: Final = {
    LockKind.RWSEM: ("rw_semaphore", "rwbase.rtmutex"),
    LockKind.MUTEX: ("mutex", "rtmutex"),
    LockKind.RT_SPINLOCK: ("spinlock", "lock"),
    LockKind.RT_MUTEX: ("rt_mutex", "rtmutex?"),
}
_WRITER_WAITS = np.uint32(1 << 30)  # in vm_refcnt: VMA_LOCK_OFFSET, VM_REFCNT_EXCLUDE_READERS_FLAG


@table()
class Waits(Table):
    """A row for each task that waits for a lock, in the order of stacks."""

    stack: I32  # row of the stacks
    task: U64  # address of the task_struct
    kind: U8  # LockKind
    wants: U8  # Wants
    waiter: U64  # its waiter; 0 for none
    lock: U64  # 0 where it was not found
    proof: U8  # Proof


@table(struct="rt_mutex_waiter")
class _RtWaiters(Table):
    task: U64 = member("task")
    lock: U64 = member("lock")


def find_waits(kernel: Kernel, places: Places, words: StackWords, waiters: Waiters, mms: U64) -> Waits:
    """The lock that each of ``places`` waits for; ``mms`` are the address spaces that are known.

    ``words`` are those of the stacks that do not lead to a stack: none of these locks lies on one.
    """
    waits = Waits.zeros(len(places))
    waits.stack[:], waits.task[:], waits.kind[:], waits.wants[:] = places.stack, places.task, places.kind, places.wants
    waits.waiter[:] = waiters.waiter
    for kind, form in FORMS.items():
        if not kernel.has(form.lock, form.head) and not kernel.has(form.lock, form.first or "?"):
            continue
        at = np.flatnonzero((waits.kind == kind) & (waiters.ring != 0))
        if not len(at):
            continue
        if kernel.has(form.lock, form.head):
            _by_head(kernel, form, at, waiters, waits)
        else:
            _by_first_waiter(kernel, form, at, waiters, words, waits, mms)
    _by_blocked_on(kernel, waits)
    _own_rt_mutexes(kernel, words, waits)
    _vma_writers(kernel, words, waits, mms)
    _vma_semaphores(kernel, words, waits)
    return waits


def _by_head(kernel: Kernel, form: Form, at: I64, waiters: Waiters, waits: Waits) -> None:
    """The lock whose list the waiter is on."""
    found = at[waiters.head[at] != 0]
    waits.lock[found] = waiters.head[found] - np.uint64(kernel.offset(form.lock, form.head))
    waits.proof[found] = Proof.HEAD


def _by_first_waiter(
    kernel: Kernel, form: Form, at: I64, waiters: Waiters, words: StackWords, waits: Waits, mms: U64
) -> None:
    """The lock that has the first waiter of the waiter's list: among those the task names and words of its stack."""
    candidates = _candidates(kernel, at, words, waits)
    if form.lock == "rw_semaphore" and kernel.has("mm_struct", "mmap_lock"):
        candidates = np.concatenate([mms + np.uint64(kernel.offset("mm_struct", "mmap_lock")), candidates])
    first, ok = kernel.gather_member(form.lock, form.first, candidates)
    usable = ok & (first != 0) & (candidates % np.uint64(8) == 0) & _has_waiters(kernel, form, candidates)
    known = at[waiters.waiter[at] != 0]
    order = np.argsort(waiters.waiter[known], kind="stable")
    row = rows_of(waiters.waiter[known][order], first)
    usable &= row >= 0
    for candidate, found in zip(candidates[usable].tolist(), known[order][row[usable]].tolist(), strict=True):
        same = at[(waiters.ring[at] == waiters.ring[found]) & (waits.proof[at] == Proof.UNKNOWN)]
        waits.lock[same], waits.proof[same] = candidate, Proof.FIRST_WAITER


def _candidates(kernel: Kernel, at: I64, words: StackWords, waits: Waits) -> U64:
    """What may be the lock, the likeliest first: what the tasks name, then pointers on their stacks."""
    named = [np.zeros(0, np.uint64)]
    for path in ("blocked_on", "blocker"):
        if kernel.has("task_struct", path):
            value, ok = kernel.gather_member("task_struct", path, waits.task[at])
            # The low two bits of blocker say which kind of lock it is (include/linux/hung_task.h).
            named.append((value & ~np.uint64(3))[ok])
    chosen = np.flatnonzero(np.isin(words.place, at) & kernel.arch.kernel_pointer(words.value))[:_MOST_CANDIDATES]
    values = np.concatenate([*named, words.value[chosen]])
    values = values[kernel.arch.kernel_pointer(values)]
    return values[np.sort(first_rows(values))]


def _has_waiters(kernel: Kernel, form: Form, locks: U64) -> Bools:
    """Which locks say themselves that somebody waits for them; semaphores do not say it."""
    path, flag = {"rw_semaphore": ("count.counter", 2), "mutex": ("owner.counter", 1)}.get(form.lock, ("", 0))
    if not path:
        return np.ones(len(locks), np.bool_)
    word, ok = kernel.gather_member(form.lock, path, locks)  # RWSEM_FLAG_WAITERS, MUTEX_FLAG_WAITERS
    says: Bools = ok & ((word & np.uint64(flag)) != 0)
    return says


def _by_blocked_on(kernel: Kernel, waits: Waits) -> None:
    """task->pi_blocked_on: the rt_mutex_waiter of a task that waits for one (task_blocks_on_rt_mutex)."""
    if not kernel.has("task_struct", "pi_blocked_on") or not kernel.has("rt_mutex_waiter", "lock"):
        return
    at = np.flatnonzero(np.isin(waits.kind, list(_RT_PARTS)) & (waits.proof == Proof.UNKNOWN))
    pointer, ok = kernel.gather_member("task_struct", "pi_blocked_on", waits.task[at])
    rows, read = kernel.gather(_RtWaiters, pointer)
    proven = ok & read & (pointer != 0) & (rows.task == waits.task[at]) & kernel.arch.kernel_pointer(rows.lock)
    for kind, (struct, path) in _RT_PARTS.items():
        here = proven & (waits.kind[at] == kind)
        if here.any():
            offset = kernel.offset(struct, path.removesuffix("?")) if kernel.has(struct, path.removesuffix("?")) else 0
            waits.lock[at[here]] = rows.lock[here] - np.uint64(offset)
            waits.waiter[at[here]], waits.proof[at[here]] = pointer[here], Proof.BLOCKED_ON


def _own_rt_mutexes(kernel: Kernel, words: StackWords, waits: Waits) -> None:
    """PREEMPT_RT: a writer takes the rt_mutex of the lock first and then waits for readers (rwbase_write_lock)."""
    owner, readers = "rwbase.rtmutex.owner", "rwbase.readers.counter"
    if not kernel.has("rw_semaphore", owner):
        return
    at = np.flatnonzero((waits.kind == LockKind.RWSEM) & (waits.proof == Proof.UNKNOWN))
    chosen = np.flatnonzero(np.isin(words.place, at) & kernel.arch.kernel_pointer(words.value))[:_MOST_CANDIDATES]
    locks, place = words.value[chosen], words.place[chosen]
    holder, ok = kernel.gather_member("rw_semaphore", owner, locks)
    count, read = kernel.gather_member("rw_semaphore", readers, locks)
    hit = ok & read & (locks % np.uint64(8) == 0) & ((holder & _RT_HELD) == waits.task[place]) & (count != 0)
    waits.lock[place[hit]], waits.proof[place[hit]] = locks[hit], Proof.OWN


@table(struct="vm_area_struct")
class _Vmas(Table):
    mm: U64 = member("vm_mm")
    refcnt: U32 = member("vm_refcnt.refs.counter?")


def _vma_writers(kernel: Kernel, words: StackWords, waits: Waits, mms: U64) -> None:
    """Writers that wait until nobody reads a VMA any more (__vma_enter_locked, mm/mmap_lock.c; since 6.15).

    ``vma_writer_wait`` of the mm has the task; the VMA is the word of its stack that leads to one of that mm whose
    ``vm_refcnt`` says that a writer waits.
    """
    if not kernel.has("mm_struct", "vma_writer_wait.task") or not kernel.has("vm_area_struct", "vm_refcnt"):
        return
    at = np.flatnonzero((waits.kind == LockKind.VMA) & (waits.proof == Proof.UNKNOWN))
    if not len(at):
        return
    waiting, ok = kernel.gather_member("mm_struct", "vma_writer_wait.task", mms)
    mms, waiting = mms[ok & (waiting != 0)], waiting[ok & (waiting != 0)]
    for row in at[:_MOST_WRITERS].tolist():
        own = mms[waiting == waits.task[row]]
        values = words.value[words.place == row]
        values = distinct(values[kernel.arch.kernel_pointer(values)])
        vmas, read = kernel.gather(_Vmas, values)
        hits = read & np.isin(vmas.mm, own) & ((vmas.refcnt & _WRITER_WAITS) != 0)
        if int(hits.sum()) == 1:
            waits.lock[row], waits.proof[row] = values[hits][0], Proof.COUNTED


def _vma_semaphores(kernel: Kernel, words: StackWords, waits: Waits) -> None:
    """6.4 to 6.14: a VMA leads to a semaphore of its own (vm_lock), and the stack of who waits for that to the VMA."""
    if not kernel.has("vm_area_struct", "vm_lock") or not kernel.has("vma_lock", "lock"):
        return
    offset = np.uint64(kernel.offset("vma_lock", "lock"))
    at = np.flatnonzero((waits.kind == LockKind.RWSEM) & (waits.lock != 0))
    chosen = np.flatnonzero(np.isin(words.place, at) & kernel.arch.kernel_pointer(words.value))[:_MOST_CANDIDATES]
    vmas, place = words.value[chosen], words.place[chosen]
    lock, ok = kernel.gather_member("vm_area_struct", "vm_lock", vmas)
    mm, read = kernel.gather_member("vm_area_struct", "vm_mm", vmas)
    own, known = kernel.gather_member("task_struct", "mm", waits.task[place])
    hit = ok & read & known & (lock != 0) & (lock + offset == waits.lock[place]) & (mm == own)
    waits.lock[place[hit]], waits.kind[place[hit]] = vmas[hit], LockKind.VMA


def is_proven(waits: Waits) -> Bools:
    """Of which tasks the lock is known for certain."""
    proven: Bools = (waits.proof != Proof.UNKNOWN) & (waits.proof != Proof.REGISTER)
    return proven
