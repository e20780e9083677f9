"""What tasks were in the middle of, on stacks made by hand; and tasks that are copies of their parents still."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import Machine
from handmade_stacks import STRUCTS, USER, Rule, Stacks

from vmaforensics.views.operations.copies import unborn_copies
from vmaforensics.views.operations.operation import KNOWN, Operation, operations_by_function
from vmaforensics.views.operations.operations import OperationsView, gather_operations
from vmaforensics.views.processes.mm_lists import TreeRoots
from vmaforensics.views.processes.mm_sources import Source, SourcesView
from vmaforensics.views.processes.mms import Mms
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.structures.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.arch.registers import CpuState

# kernel/locking/rwbase_rt.c, kernel/locking/rtmutex.c: a writer has the rt_mutex, bit 0 of whose owner says who waits.
REALTIME = {
    "rw_semaphore": "rwbase:rwbase_rt",
    "rwbase_rt": "readers:atomic_t rtmutex:rt_mutex_base",
    "rt_mutex_base": "owner:*",
}
RUNNING, INTERRUPTIBLE, UNINTERRUPTIBLE, KILLABLE, IDLE = 0, 1, 2, 0x102, 0x402
MM = 0xFFFF_8880_0000_1000


@pytest.fixture
def stacks() -> Stacks:
    """A kernel with functions of operations."""
    made = Stacks()
    for name in ("zap_pte_range.isra.0", "unmap_vmas", "do_mmap", "wp_page_copy", "copy_process", "ep_poll"):
        made.function(name, Rule())
    return made


def _sources(stacks: Stacks, states: Sequence[int], **columns: Sequence[int]) -> SourcesView:
    """All tasks are listed and have an mm, unless ``columns`` say otherwise."""
    count = len(stacks.tasks)
    sources = columns.pop("sources", [Source.TASK_LIST | Source.PID_INDEX | Source.SLAB] * count)
    known: dict[str, Sequence[int]] = {"pid": range(1, count + 1), "tgid": range(1, count + 1), "mm": [MM] * count}
    tasks = Tasks.of(count, task=stacks.tasks, state=states, ok=[True] * count, **(known | columns))
    order = np.argsort(tasks.task)
    return SourcesView(
        tasks=tasks.take(order),
        task_sources=np.array(sources, np.uint16)[order],
        executing=np.zeros(count, np.bool_),
        mms=Mms.zeros(0),
        mm_sources=np.zeros(0, np.uint16),
        owner=np.zeros(0, np.uint64),
        last_user=np.zeros(0, np.uint64),
        kernel_own=np.zeros(0, np.bool_),
        roots=TreeRoots.zeros(0),
        whole=Source.TASK_LIST,
    )


def _gathered(stacks: Stacks, states: Sequence[int], *cpus: CpuState) -> OperationsView:
    view = gather_operations(stacks.kernel(), _sources(stacks, states), Mms.zeros(0), cpus)
    assert view is not None
    return view


def _named(view: OperationsView) -> list[tuple[int, Operation]]:
    return [
        (pid, Operation(kind))
        for pid, kind in zip(view.under_way.pid.tolist(), view.under_way.operation.tolist(), strict=True)
    ]


def _sleeper(stacks: Stacks, *functions: str) -> int:
    return stacks.task(*(stacks.code(name) for name in ("schedule", *functions, "entry_SYSCALL_64")), *USER)


@pytest.mark.parametrize(
    ("state", "found"),
    [(RUNNING, 1), (UNINTERRUPTIBLE, 1), (KILLABLE, 1), (INTERRUPTIBLE, 0), (IDLE, 0)],
)
def test_whoever_waits_for_the_outside_has_nothing_half_done(stacks: Stacks, state: int, found: int) -> None:
    _sleeper(stacks, "do_mmap")
    assert _named(_gathered(stacks, [state])) == [(1, Operation.MAP)] * found


def test_a_system_call_is_no_operation(stacks: Stacks) -> None:
    _sleeper(stacks, "ep_poll")
    view = _gathered(stacks, [UNINTERRUPTIBLE])
    assert not len(view.under_way)
    assert not len(view.unclear)


def test_a_function_is_known_by_its_name_without_what_the_compiler_adds(stacks: Stacks) -> None:
    task = _sleeper(stacks, "ep_poll")
    low = stacks.stack()
    place = low + 0x2000
    for at, word in enumerate((stacks.code("unmap_vmas"), stacks.code("entry_SYSCALL_64"), *USER)):
        stacks.machine.word(low + 16384 - 8 * (2 + len(USER)) + 8 * at, word)
    running = stacks.add(low, place, on_cpu=1)
    stacks.runs(running)
    state = stacks.cpu(ip=stacks.code("zap_pte_range.isra.0"), sp=low + 16384 - 8 * (2 + len(USER)))
    view = _gathered(stacks, [INTERRUPTIBLE, RUNNING], state)
    assert _named(view) == [(2, Operation.ZAP), (2, Operation.UNMAP)]
    assert view.name(0) == "zap_pte_range.isra.0"
    assert view.under_way.mm.tolist() == [MM, MM]
    assert task != running


def test_what_is_done_under_a_spin_lock_is_half_done_on_a_cpu_only(stacks: Stacks) -> None:
    _sleeper(stacks, "zap_pte_range.isra.0", "unmap_vmas")
    assert _named(_gathered(stacks, [RUNNING])) == [(1, Operation.UNMAP)]


def test_words_left_over_from_earlier_calls_are_no_operation(stacks: Stacks) -> None:
    stacks.task(stacks.code("schedule"), 0x1234, stacks.code("do_mmap"), stacks.code("entry_SYSCALL_64"), *USER)
    view = _gathered(stacks, [RUNNING])
    assert _named(view) == []
    assert view.unclear.tolist() == [MM]


def test_every_function_belongs_to_some_operation_and_every_operation_has_some() -> None:
    named = operations_by_function()
    assert {kind for kinds in named.values() for kind in kinds} == set(Operation) == set(KNOWN)


def test_who_has_got_past_the_end_of_its_use_of_a_map_does_not_answer_for_it(stacks: Stacks) -> None:
    for name in ("mmput", "exit_mmap"):
        stacks.function(name, Rule())
    _sleeper(stacks, "mmput")
    _sleeper(stacks, "exit_mmap", "mmput")
    found = _named(_gathered(stacks, [RUNNING, RUNNING]))
    assert (1, Operation.LET_GO) in found
    assert (2, Operation.LET_GO) not in found


def test_who_stops_for_a_signal_may_go_on_as_before(stacks: Stacks) -> None:
    for name in ("get_signal", "do_signal_stop", "task_work_run"):
        stacks.function(name, Rule())
    _sleeper(stacks, "task_work_run", "get_signal")
    _sleeper(stacks, "do_signal_stop", "get_signal")
    found = _named(_gathered(stacks, [UNINTERRUPTIBLE, UNINTERRUPTIBLE]))
    assert (1, Operation.SIGNAL) in found
    assert (2, Operation.SIGNAL) not in found


def test_a_function_that_is_an_operation_in_part_counts_where_it_was_interrupted(stacks: Stacks) -> None:
    stacks.function("do_exit", Rule())
    _sleeper(stacks, "do_exit")
    assert (1, Operation.LET_GO) not in _named(_gathered(stacks, [RUNNING]))
    low = stacks.stack()
    sp = low + 16384 - 8 * (1 + len(USER))
    for at, word in enumerate((stacks.code("entry_SYSCALL_64"), *USER)):
        stacks.machine.word(sp + 8 * at, word)
    running = stacks.add(low, low + 0x2000, on_cpu=1)
    stacks.runs(running)
    view = _gathered(stacks, [RUNNING, RUNNING], stacks.cpu(ip=stacks.code("do_exit"), sp=sp))
    assert (2, Operation.LET_GO) in _named(view)


@pytest.mark.parametrize(
    ("caller", "found"),
    [
        pytest.param("handle_mm_fault", True, id="a new page"),
        pytest.param("add_to_page_cache_lru", False, id="a file's"),
    ],
)
def test_a_new_page_that_is_put_on_a_list_is_a_fault_half_done(stacks: Stacks, caller: str, found: bool) -> None:
    """do_anonymous_page of 5.10, inlined: page_add_new_anon_rmap, lru_cache_add, set_pte_at."""
    for name in ("lru_cache_add", caller):
        stacks.function(name, Rule())
    low = stacks.stack()
    sp = low + 16384 - 8 * (2 + len(USER))
    for at, word in enumerate((stacks.code(caller), stacks.code("entry_SYSCALL_64"), *USER)):
        stacks.machine.word(sp + 8 * at, word)
    stacks.runs(stacks.add(low, low + 0x2000, on_cpu=1))
    view = _gathered(stacks, [RUNNING], stacks.cpu(ip=stacks.code("lru_cache_add"), sp=sp))
    assert ((1, Operation.FAULT) in _named(view)) == found


def test_in_a_switch_the_next_task_left_off_elsewhere_than_the_cpu_is(stacks: Stacks) -> None:
    """rq->curr is exchanged before the memory map and the stack (__schedule, context_switch)."""
    words = tuple(stacks.code(name) for name in ("schedule", "do_mmap", "entry_SYSCALL_64"))
    after = stacks.task(*words, *USER)
    low = stacks.stack()
    sp = low + 16384 - 8 * (1 + len(USER))
    for at, word in enumerate((stacks.code("entry_SYSCALL_64"), *USER)):
        stacks.machine.word(sp + 8 * at, word)
    before = stacks.add(low, low + 0x2000, on_cpu=1)
    stacks.machine.write(stacks.machine.at("task_struct", after, "on_cpu"), (1).to_bytes(4, "little"))
    stacks.runs(after)
    view = _gathered(stacks, [RUNNING, INTERRUPTIBLE], stacks.cpu(ip=stacks.code("schedule"), sp=sp))
    assert (1, Operation.MAP) in _named(view)
    assert not len(view.unclear)
    assert before in view.stacks.stacks.task.tolist()


# Copies -----------------------------------------------------------------------------------------------------


def _forked(stacks: Stacks, *functions: str, stack: int | None = None) -> SourcesView:
    """A task in ``functions``, and one that only the slab knows with its pid, mm and time of birth."""
    parent = _sleeper(stacks, *functions)
    low = stacks.stack() if stack is None else stack
    stacks.add(low, low + 0x1000)
    slab = [Source.TASK_LIST | Source.PID_INDEX | Source.SLAB, Source.SLAB]
    assert parent == stacks.tasks[0]
    return _sources(stacks, [RUNNING, RUNNING], pid=[7, 7], tgid=[7, 7], start=[5, 5], sources=slab)


def test_a_copy_of_a_task_that_is_forking_is_not_born_yet(stacks: Stacks) -> None:
    sources = _forked(stacks, "copy_process")
    view = gather_operations(stacks.kernel(), sources, Mms.zeros(0), ())
    assert view is not None
    assert view.copies.tolist() == [stacks.tasks[1]]


def test_a_task_beside_one_that_does_not_fork_is_no_copy(stacks: Stacks) -> None:
    sources = _forked(stacks, "ep_poll")
    view = gather_operations(stacks.kernel(), sources, Mms.zeros(0), ())
    assert view is not None
    assert not len(view.copies)


def test_a_copy_may_have_the_stack_of_its_parent(stacks: Stacks) -> None:
    parent = _sleeper(stacks, "ep_poll")
    low = stacks.machine.kernel().u64(parent + stacks.machine.kernel().offset("task_struct", "stack"))
    stacks.add(low, low + 0x1000)
    slab = [Source.TASK_LIST | Source.SLAB, Source.SLAB]
    sources = _sources(stacks, [RUNNING, RUNNING], pid=[7, 7], tgid=[7, 7], start=[5, 5], sources=slab)
    assert unborn_copies(stacks.kernel(), sources, np.zeros(0, np.uint64)).tolist() == [stacks.tasks[1]]


@pytest.mark.parametrize("column", ["pid", "tgid", "mm", "start"])
def test_a_copy_is_like_its_parent_in_everything(stacks: Stacks, column: str) -> None:
    sources = _forked(stacks, "copy_process")
    row = int(np.flatnonzero(sources.tasks.task == stacks.tasks[1])[0])
    getattr(sources.tasks, column)[row] += 1
    view = gather_operations(stacks.kernel(), sources, Mms.zeros(0), ())
    assert view is not None
    assert not len(view.copies)


def test_a_task_that_the_pid_index_knows_is_no_copy(stacks: Stacks) -> None:
    sources = _forked(stacks, "copy_process")
    sources.task_sources[sources.tasks.task == stacks.tasks[1]] |= np.uint16(Source.PID_INDEX)
    view = gather_operations(stacks.kernel(), sources, Mms.zeros(0), ())
    assert view is not None
    assert not len(view.copies)


@pytest.mark.parametrize(
    ("structs", "owner", "flags"),
    [
        ({}, "mmap_lock.owner.counter", 2),  # RWSEM_NONSPINNABLE may stand beside the writer
        (REALTIME, "mmap_lock.rwbase.rtmutex.owner", 1),  # RT_MUTEX_HAS_WAITERS
    ],
)
def test_a_lock_that_is_write_held_names_the_task_that_has_it(structs: dict[str, str], owner: str, flags: int) -> None:
    machine = Machine(STRUCTS | {"rw_semaphore": "count:atomic64_t owner:atomic64_t"} | structs, pages=256)
    stacks = Stacks(machine=machine)
    task = stacks.task(stacks.code("schedule"), *USER)
    held, free = (machine.put("mm_struct", {owner: task | flags}) for _ in range(2))
    mms = Mms.of(2, mm=[held, free], ok=[True] * 2, lock=[Lock.WRITE, Lock.FREE])
    view = gather_operations(stacks.kernel(), _sources(stacks, [RUNNING]), mms, ())
    assert view is not None
    assert view.lock_owner.tolist() == [task, 0]
