"""Who waits for whom, on stacks made by hand.

Where waiters and flags lie is from kernel/locking/{rwsem,mutex,rtmutex,rwbase_rt}.c and include/linux/swait.h.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import BASE, Machine
from handmade_stacks import STRUCTS, THREAD_SIZE, USER, Rule, Stacks
from work import budget

from vmaforensics.views.locks.cycles import find_cycles
from vmaforensics.views.locks.gather import LocksView, gather_locks
from vmaforensics.views.locks.kinds import LockKind, Proof, Wants
from vmaforensics.views.locks.vma_locks import write_locked
from vmaforensics.views.processes.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

WITH_HEAD = STRUCTS | {
    "mutex": "owner:atomic64_t wait_lock:u32 osq:u32 wait_list:list_head",
    "mutex_waiter": "list:list_head task:* ww_ctx:*",
    "rw_semaphore": "count:atomic64_t owner:atomic64_t osq:u32 wait_lock:u32 wait_list:list_head",
    "rwsem_waiter": "list:list_head task:* type:u32 timeout:u64 handoff_set:u8",
    "swait_queue": "task:* task_list:list_head",
    "swait_queue_head": "lock:u32 task_list:list_head",
    "completion": "done:u32 wait:swait_queue_head",
    "task_struct": STRUCTS["task_struct"] + " vfork_done:* pi_blocked_on:* blocked_on:*",
}
# 7.2: no head of the list, but a pointer to its first waiter.
HEADLESS = WITH_HEAD | {
    "mutex": "owner:atomic64_t wait_lock:u32 osq:u32 first_waiter:*",
    "rw_semaphore": "count:atomic64_t owner:atomic64_t osq:u32 wait_lock:u32 first_waiter:*",
}
RT = STRUCTS | {
    "rt_mutex_base": "wait_lock:u64 waiters:u64[2] owner:*",
    "rwbase_rt": "readers:atomic_t rtmutex:rt_mutex_base",
    "rw_semaphore": "rwbase:rwbase_rt",
    "mutex": "rtmutex:rt_mutex_base",
    "rt_mutex_waiter": "tree:u64[5] task:* lock:*",
    "task_struct": STRUCTS["task_struct"] + " vfork_done:* pi_blocked_on:*",
}
FRAME = 16  # words of the frame of a function that waits, its return address included
IN_FRAME = 4  # words from its stack pointer to the waiter
REFCOUNTED = HEADLESS | {
    "rcuwait": "task:*",
    "mm_struct": "mmap_lock:rw_semaphore vma_writer_wait:rcuwait mm_lock_seq:u32",
    "vm_area_struct": "vm_start:u64 vm_mm:* vm_lock_seq:u32 vm_refcnt:refcount_t",
}
WITH_SEMAPHORES = WITH_HEAD | {
    "mm_struct": "mmap_lock:rw_semaphore mm_lock_seq:i32",
    "vma_lock": "lock:rw_semaphore",
    "vm_area_struct": "vm_start:u64 vm_mm:* vm_lock_seq:i32 vm_lock:*",
}
FUNCTIONS = (
    "__vma_enter_locked",
    "rwsem_down_read_slowpath",
    "rwsem_down_write_slowpath",
    "__mutex_lock.constprop.0",
    "__wait_for_common",
    "rt_mutex_slowlock_block.constprop.0",
    "rwbase_write_lock",
    "native_queued_spin_lock_slowpath",
    "do_something_else",
)


@dataclass
class Waiting:
    """Tasks in functions that wait."""

    structs: dict[str, str] = field(default_factory=lambda: WITH_HEAD)

    def __post_init__(self) -> None:
        self.stacks = Stacks(machine=Machine(self.structs, pages=512))
        for name in FUNCTIONS:
            self.stacks.function(name, Rule(sp_offset=8 * FRAME))

    @property
    def machine(self) -> Machine:
        """What they lie in."""
        return self.stacks.machine

    def task(self, function: str, struct: str = "rwsem_waiter", *, words: Sequence[int] = (), mm: int = 0) -> int:
        """A task that sleeps in ``function``, with a waiter of that structure; returns the waiter's address."""
        code = self.stacks.code
        frame = [*words, *[0] * (FRAME - 1 - len(words))]
        at = (code("schedule"), code(function), *frame, code("entry_SYSCALL_64"), *USER)
        low = self.stacks.stack()
        task = self.stacks.task(*at, stack=low)
        if mm:
            self.machine.set("task_struct", task, "mm", mm)
        # What the switch saved, two return addresses, and the frame.
        waiter = low + THREAD_SIZE - 8 * (len(at) + 6) + 8 * (6 + 2 + IN_FRAME)
        if struct:
            self.machine.set(struct, waiter, "task", task)
        return waiter

    def link(self, *nodes: int) -> None:
        """Put list_heads on one list, in this order."""
        for at, after in zip(nodes, (*nodes[1:], nodes[0]), strict=True):
            self.machine.set("list_head", at, "next", after)
            self.machine.set("list_head", after, "prev", at)

    def view(self) -> LocksView:
        """Who waits for whom."""
        view = self.stacks.view()
        kernel = self.stacks.machine.kernel()
        tasks = np.array(self.stacks.tasks, np.uint64)
        mms, ok = kernel.gather_member("task_struct", "mm", tasks)
        known = Tasks.of(task=tasks, mm=mms, pid=range(1, len(tasks) + 1), state=[2] * len(tasks), ok=ok)
        return gather_locks(kernel, known, view)


def test_readers_and_a_writer_on_the_list_of_a_semaphore() -> None:
    waiting = Waiting()
    waiting.task("do_something_else", "")
    first = waiting.task("rwsem_down_read_slowpath")
    second = waiting.task("rwsem_down_write_slowpath")
    task = waiting.stacks.tasks[0]
    lock = waiting.machine.put("rw_semaphore", {"count.counter": 1 | 2, "owner.counter": task})
    waiting.link(waiting.machine.at("rw_semaphore", lock, "wait_list"), first, second)

    view = waiting.view()

    assert view.waits.task.tolist() == waiting.stacks.tasks[1:]
    assert view.waits.lock.tolist() == [lock, lock]
    assert view.waits.wants.tolist() == [Wants.READ, Wants.WRITE]
    assert view.waits.waiter.tolist() == [first, second]
    assert set(view.waits.proof.tolist()) == {Proof.HEAD}
    assert (view.locks.owner.tolist(), view.locks.writer.tolist()) == ([task], [True])
    assert view.locks.waiters.tolist() == [True]
    assert view.cycles == []


def test_readers_are_counted_and_the_last_of_them_is_no_owner() -> None:
    waiting = Waiting()
    waiter = waiting.task("rwsem_down_write_slowpath")
    task = waiting.stacks.tasks[0]
    lock = waiting.machine.put("rw_semaphore", {"count.counter": 3 << 8 | 2 | 4, "owner.counter": task | 1})
    waiting.link(waiting.machine.at("rw_semaphore", lock, "wait_list"), waiter)

    locks = waiting.view().locks

    assert (locks.readers.tolist(), locks.writer.tolist(), locks.owner.tolist()) == ([3], [False], [0])
    assert (locks.last_reader.tolist(), locks.handoff.tolist()) == ([task], [True])


def test_two_tasks_that_hold_what_the_other_wants() -> None:
    waiting = Waiting()
    waiters = [waiting.task("__mutex_lock.constprop.0", "mutex_waiter") for _ in range(2)]
    for waiter, owner in zip(waiters, reversed(waiting.stacks.tasks), strict=True):
        lock = waiting.machine.put("mutex", {"owner.counter": owner | 1})
        waiting.link(waiting.machine.at("mutex", lock, "wait_list"), waiter)

    view = waiting.view()

    assert view.cycles == [[0, 1]]
    assert view.blocker.tolist() == [1, 0]
    assert set(view.waits.kind.tolist()) == {LockKind.MUTEX}


def test_a_list_without_a_head_has_the_lock_that_points_to_its_first_waiter() -> None:
    waiting = Waiting(HEADLESS)
    lock = waiting.machine.put("mutex", {"owner.counter": 1})
    first = waiting.task("__mutex_lock.constprop.0", "mutex_waiter")
    second = waiting.task("__mutex_lock.constprop.0", "mutex_waiter")
    waiting.link(first, second)
    waiting.machine.set("mutex", lock, "first_waiter", first)
    waiting.machine.set("task_struct", waiting.stacks.tasks[1], "blocked_on", lock)

    view = waiting.view()

    assert view.waits.lock.tolist() == [lock, lock]
    assert set(view.waits.proof.tolist()) == {Proof.FIRST_WAITER}


def test_the_lock_may_be_a_word_of_the_stack() -> None:
    waiting = Waiting(HEADLESS)
    lock = waiting.machine.put("rw_semaphore", {"count.counter": 3})
    waiter = waiting.task("rwsem_down_write_slowpath", words=[0, lock])
    waiting.link(waiter)
    waiting.machine.set("rw_semaphore", lock, "first_waiter", waiter)

    view = waiting.view()

    assert view.waits.lock.tolist() == [lock]


def test_a_word_that_names_another_list_is_no_proof() -> None:
    waiting = Waiting(HEADLESS)
    other = waiting.machine.put("rw_semaphore", {"first_waiter": BASE + 0x100})
    waiter = waiting.task("rwsem_down_write_slowpath", words=[0, other])
    waiting.link(waiter)

    view = waiting.view()

    assert view.waits.lock.tolist() == [0]
    assert view.waits.proof.tolist() == [Proof.UNKNOWN]


@pytest.mark.parametrize("broken", ["next", "prev"])
def test_a_waiter_that_its_neighbours_do_not_know_is_none(broken: str) -> None:
    waiting = Waiting()
    waiter = waiting.task("rwsem_down_read_slowpath")
    lock = waiting.machine.put("rw_semaphore")
    head = waiting.machine.at("rw_semaphore", lock, "wait_list")
    waiting.link(head, waiter)
    waiting.machine.set("list_head", head, broken, head)

    assert waiting.view().waits.lock.tolist() == [0]


def test_a_list_that_runs_in_a_circle_without_its_head_gives_no_lock() -> None:
    waiting = Waiting()
    waiters = [waiting.task("rwsem_down_read_slowpath") for _ in range(3)]
    waiting.link(*waiters)

    view = waiting.view()

    assert view.waits.lock.tolist() == [0, 0, 0]
    assert view.cycles == []


def test_two_heads_on_one_list_give_no_lock() -> None:
    waiting = Waiting()
    waiter = waiting.task("rwsem_down_read_slowpath")
    heads = [waiting.machine.at("rw_semaphore", waiting.machine.put("rw_semaphore"), "wait_list") for _ in range(2)]
    waiting.link(heads[0], waiter, heads[1])

    assert waiting.view().waits.lock.tolist() == [0]


def test_a_vfork_waits_for_the_child_that_names_its_completion() -> None:
    waiting = Waiting()
    waiter = waiting.task("__wait_for_common", "swait_queue")
    waiting.task("do_something_else", "")
    parent, child = waiting.stacks.tasks
    done = waiting.machine.put("completion")
    waiting.link(
        waiting.machine.at("completion", done, "wait.task_list"), waiting.machine.at("swait_queue", waiter, "task_list")
    )
    waiting.machine.set("task_struct", child, "vfork_done", done)

    view = waiting.view()

    assert (view.waits.task.tolist(), view.waits.lock.tolist()) == ([parent], [done])
    assert (view.locks.owner.tolist(), view.locks.held.tolist()) == ([child], [True])


def test_a_mutex_of_preempt_rt_is_what_pi_blocked_on_says() -> None:
    waiting = Waiting(RT)
    waiter = waiting.task("rt_mutex_slowlock_block.constprop.0", "rt_mutex_waiter")
    waiting.task("do_something_else", "")
    task, owner = waiting.stacks.tasks
    lock = waiting.machine.put("mutex", {"rtmutex.owner": owner | 1})
    waiting.machine.set("rt_mutex_waiter", waiter, "lock", waiting.machine.at("mutex", lock, "rtmutex"))
    waiting.machine.set("task_struct", task, "pi_blocked_on", waiter)

    view = waiting.view()

    assert (view.waits.lock.tolist(), view.waits.proof.tolist()) == ([lock], [Proof.BLOCKED_ON])
    assert (view.locks.owner.tolist(), view.locks.waiters.tolist()) == ([owner], [True])


def test_a_waiter_of_another_task_proves_nothing() -> None:
    waiting = Waiting(RT)
    waiter = waiting.task("rt_mutex_slowlock_block.constprop.0", "rt_mutex_waiter")
    task = waiting.stacks.tasks[0]
    waiting.machine.set("rt_mutex_waiter", waiter, "task", task + 64)
    waiting.machine.set("rt_mutex_waiter", waiter, "lock", waiting.machine.put("mutex"))
    waiting.machine.set("task_struct", task, "pi_blocked_on", waiter)

    assert waiting.view().waits.lock.tolist() == [0]


def test_a_writer_of_preempt_rt_that_waits_for_readers_is_not_its_own_blocker() -> None:
    waiting = Waiting(RT)
    lock = waiting.machine.put("rw_semaphore", {"rwbase.readers.counter": 2})
    waiting.task("rwbase_write_lock", "rt_mutex_waiter", words=[0, lock])
    task = waiting.stacks.tasks[0]
    waiting.machine.set("rw_semaphore", lock, "rwbase.rtmutex.owner", task)

    view = waiting.view()

    assert (view.waits.lock.tolist(), view.waits.proof.tolist()) == ([lock], [Proof.OWN])
    assert (view.locks.readers.tolist(), view.locks.owner.tolist()) == ([2], [0])
    assert view.cycles == []


def test_mmap_locks_are_read_though_nobody_waits() -> None:
    structs = WITH_HEAD | {"mm_struct": "mmap_lock:rw_semaphore users:u64"}
    waiting = Waiting(structs)
    mm = waiting.machine.put("mm_struct", {"mmap_lock.count.counter": 1 << 8})
    waiting.task("do_something_else", "", mm=mm)

    view = waiting.view()

    assert len(view.waits) == 0
    assert view.locks.lock.tolist() == [waiting.machine.at("mm_struct", mm, "mmap_lock")]
    assert (view.locks.readers.tolist(), view.locks.held.tolist()) == ([1], [True])


@pytest.mark.parametrize(
    ("after", "circles"),
    [
        ([], []),
        ([-1], []),
        ([0], [[0]]),
        ([1, 2, 0], [[0, 1, 2]]),
        ([2, 0, 1, 0], [[0, 2, 1]]),
        ([1, -1, 3, 2, 3], [[2, 3]]),
    ],
)
def test_circles(after: list[int], circles: list[list[int]]) -> None:
    assert find_cycles(np.array(after, np.int64)) == circles


@pytest.mark.parametrize("structs", [WITH_HEAD, HEADLESS, RT], ids=["head", "headless", "rt"])
def test_words_of_chance_end_and_are_no_deadlock(structs: dict[str, str]) -> None:
    chance = random.Random(7)
    waiting = Waiting(structs)
    kinds = ["rwsem_waiter", "mutex_waiter", "swait_queue"] if structs is not RT else ["rt_mutex_waiter"]
    places = [waiting.task(function, chance.choice(kinds)) for function in FUNCTIONS for _ in range(4)]
    places += [waiting.machine.room(64) for _ in range(4)] + waiting.stacks.tasks
    for _ in range(12):
        for place in places[: 4 * len(FUNCTIONS) + 4]:
            waiting.machine.word(place + 8 * chance.randrange(4), chance.choice(places) + chance.choice((0, 1, 8, 16)))
        view = waiting.view()
        assert len(view.blocker) == len(view.waits)
        for circle in view.cycles:  # only edges that hold: each waits for a lock whose owner is the next
            for wait, after in zip(circle, [*circle[1:], circle[0]], strict=True):
                lock = view.locks.lock.tolist().index(int(view.waits.lock[wait]))
                assert view.locks.owner[lock] == view.waits.task[after]


def test_a_list_of_many_waiters_takes_few_reads() -> None:
    waiting = Waiting()
    waiting.stacks = Stacks(machine=Machine(WITH_HEAD, pages=4096))
    for name in FUNCTIONS:
        waiting.stacks.function(name, Rule(sp_offset=8 * FRAME))
    waiters = [waiting.task("rwsem_down_read_slowpath") for _ in range(600)]
    lock = waiting.machine.put("rw_semaphore", {"count.counter": 1 | 2})
    waiting.link(waiting.machine.at("rw_semaphore", lock, "wait_list"), *waiters)
    view = waiting.stacks.view()
    kernel = waiting.machine.kernel()
    tasks = np.array(waiting.stacks.tasks, np.uint64)
    known = Tasks.of(task=tasks, pid=range(1, len(tasks) + 1), state=[2] * len(tasks), ok=[True] * len(tasks))
    with budget(reads=200):
        found = gather_locks(kernel, known, view)
    assert set(found.waits.lock.tolist()) == {lock}
    assert len(found.waits) == 600


def test_of_two_locks_with_that_waiter_the_one_that_has_waiters_counts() -> None:
    waiting = Waiting(HEADLESS)
    stranger, lock = waiting.machine.put("rw_semaphore"), waiting.machine.put("rw_semaphore", {"count.counter": 2})
    waiter = waiting.task("rwsem_down_write_slowpath", words=[0, stranger, lock])
    waiting.link(waiter)
    for at in (stranger, lock):
        waiting.machine.set("rw_semaphore", at, "first_waiter", waiter)

    assert waiting.view().waits.lock.tolist() == [lock]


def test_a_writer_that_waits_for_the_readers_of_a_vma() -> None:
    waiting = Waiting(REFCOUNTED)
    mm, other = waiting.machine.put("mm_struct"), waiting.machine.put("mm_struct")
    # 1 for the VMA itself, two readers, and VM_REFCNT_EXCLUDE_READERS_FLAG.
    vma = waiting.machine.put("vm_area_struct", {"vm_mm": mm, "vm_refcnt.refs.counter": 1 << 30 | 3})
    free = waiting.machine.put("vm_area_struct", {"vm_mm": mm, "vm_refcnt.refs.counter": 1})
    strange = waiting.machine.put("vm_area_struct", {"vm_mm": other, "vm_refcnt.refs.counter": 1 << 30 | 2})
    waiting.task("__vma_enter_locked", "", words=[0, free, strange, vma], mm=mm)
    waiting.machine.set("mm_struct", mm, "vma_writer_wait.task", waiting.stacks.tasks[0])

    view = waiting.view()

    assert (view.waits.lock.tolist(), view.waits.proof.tolist()) == ([vma], [Proof.COUNTED])
    row = view.locks.lock.tolist().index(vma)
    assert (int(view.locks.readers[row]), bool(view.locks.held[row]), int(view.locks.owner[row])) == (2, True, 0)


def test_a_writer_that_waits_for_the_semaphore_of_a_vma() -> None:
    waiting = Waiting(WITH_SEMAPHORES)
    mm = waiting.machine.put("mm_struct")
    lock = waiting.machine.put("vma_lock", {"lock.count.counter": 1 << 8 | 2})
    vma = waiting.machine.put("vm_area_struct", {"vm_mm": mm, "vm_lock": lock})
    waiter = waiting.task("rwsem_down_write_slowpath", words=[vma], mm=mm)
    waiting.link(waiting.machine.at("vma_lock", lock, "lock.wait_list"), waiter)

    view = waiting.view()

    assert (view.waits.lock.tolist(), view.waits.kind.tolist()) == ([vma], [LockKind.VMA])
    row = view.locks.lock.tolist().index(vma)
    assert (int(view.locks.readers[row]), bool(view.locks.waiters[row])) == (1, True)


def test_vmas_that_a_writer_has_locked_have_the_number_of_their_mm() -> None:
    made = Machine(REFCOUNTED)
    mm = made.put("mm_struct", {"mm_lock_seq": 7})
    vmas = np.array([made.put("vm_area_struct", {"vm_lock_seq": number}) for number in (7, 5, 7)], np.uint64)
    assert write_locked(made.kernel(), mm, vmas).tolist() == [vmas[0], vmas[2]]
    assert write_locked(Machine(WITH_HEAD).kernel(), mm, vmas).tolist() == []
