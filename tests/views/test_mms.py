"""mm_structs made by hand: who uses them, their lock, the offsets of their words."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import LINUX, LINUX_5_10, Machine

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mms import MmOffsets, Mms, mmap_locks, read_mms
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.structures.lock import Lock

WILD = 0x1000


def tasks_of(*mms: int, ok: bool = True) -> Tasks:
    """A process for each mm, of pid 1, 2, …"""
    pids = np.arange(1, len(mms) + 1)
    return Tasks.of(
        task=0xFFFF888000000000 + 256 * pids.astype(np.uint64), pid=pids, tgid=pids, mm=list(mms), ok=[ok] * len(mms)
    )


def read(machine: Machine, tasks: Tasks) -> tuple[Mms, list[Problem]]:
    log = ProblemLog()
    mms = read_mms(machine.kernel(), tasks, log)
    return mms, [Problem(kind) for kind in log.table().problem.tolist()]


def test_an_mm_that_processes_share_is_one_row_of_the_first() -> None:
    machine = Machine()
    shared = machine.put("mm_struct", {"map_count": 12, "total_vm": 300, "mm_users.counter": 2})
    other = machine.put("mm_struct", {"pgtables_bytes.counter": 8192})
    mms, problems = read(machine, tasks_of(other, shared, shared))
    assert mms.mm.tolist() == [shared, other]
    assert mms.pid.tolist() == [2, 1]
    assert mms.map_count.tolist() == [12, 0]
    assert mms.users.tolist() == [2, 0]
    assert mms.pgtables_bytes.tolist() == [0, 8192]
    assert problems == []


def test_the_number_of_vmas_by_the_name_it_is_about_to_have() -> None:
    machine = Machine(LINUX | {"mm_struct": LINUX["mm_struct"].replace("map_count", "vma_count")})
    mms, problems = read(machine, tasks_of(machine.put("mm_struct", {"vma_count": 12})))
    assert (mms.map_count.tolist(), problems) == ([12], [])
    kernel = machine.kernel()
    assert MmOffsets.of(kernel).map_count == kernel.offset("mm_struct", "vma_count")


def test_kernel_threads_have_none_and_wild_pointers_are_not_followed() -> None:
    mms, problems = read(Machine(), tasks_of(0, WILD))
    assert len(mms) == 0
    assert problems == [Problem.NON_CANONICAL]


def test_a_task_that_could_not_be_read_names_no_mm() -> None:
    machine = Machine()
    mms, problems = read(machine, tasks_of(machine.put("mm_struct"), ok=False))
    assert len(mms) == 0
    assert problems == []


def test_an_mm_that_is_not_in_the_dump_is_known_by_its_address() -> None:
    machine = Machine()
    mm = machine.room(4096, 4096)
    machine.set("mm_struct", mm, "map_count", 5)
    machine.drop(mm)
    mms, problems = read(machine, tasks_of(mm))
    assert (mms.mm.tolist(), mms.ok.tolist(), mms.map_count.tolist()) == ([mm], [False], [0])
    assert mms.lock.tolist() == [Lock.UNKNOWN]
    assert problems == [Problem.UNREADABLE]


@pytest.mark.parametrize(
    ("count", "state"),
    [
        (0, Lock.FREE),
        (1, Lock.WRITE),  # RWSEM_WRITER_LOCKED
        (0x100, Lock.READ),  # RWSEM_READER_BIAS
        (0x2, Lock.FREE),  # RWSEM_FLAG_WAITERS alone
        (0x102, Lock.READ),
        (0x107, Lock.WRITE),
    ],
)
def test_the_count_of_a_semaphore_says_who_holds_it(count: int, state: Lock) -> None:
    machine = Machine()
    mm = machine.put("mm_struct", {"mmap_lock.count.counter": count})
    assert mmap_locks(machine.kernel(), np.array([mm], np.uint64)).tolist() == [state]


@pytest.mark.parametrize(
    ("readers", "state"),
    [
        (-(1 << 31), Lock.FREE),  # READER_BIAS
        (-(1 << 31) + 1, Lock.READ),
        (1 << 30, Lock.WRITE),  # WRITER_BIAS
    ],
)
def test_the_lock_of_a_realtime_kernel(readers: int, state: Lock) -> None:
    machine = Machine(LINUX | {"rw_semaphore": "rwbase:rwbase_rt", "rwbase_rt": "readers:atomic_t"})
    mm = machine.put("mm_struct", {"mmap_lock.rwbase.readers.counter": readers})
    assert mmap_locks(machine.kernel(), np.array([mm], np.uint64)).tolist() == [state]


def test_the_state_of_a_lock_of_another_kind_is_not_known() -> None:
    machine = Machine(LINUX | {"rw_semaphore": "strange:u64"})
    mm = machine.put("mm_struct")
    assert mmap_locks(machine.kernel(), np.array([mm], np.uint64)).tolist() == [Lock.UNKNOWN]


def test_offsets_of_words_that_a_kernel_lacks_are_none() -> None:
    machine = Machine(LINUX | {"mm_struct": LINUX["mm_struct"].replace("exe_file:*", "")})
    offsets, mm = MmOffsets.of(machine.kernel()), machine.put("mm_struct")
    assert offsets.exe_file is None
    assert mm + offsets.brk == machine.at("mm_struct", mm, "brk")
    assert offsets.pgtables_bytes is not None
    assert mm + offsets.pgtables_bytes == machine.at("mm_struct", mm, "pgtables_bytes.counter")


def test_a_32_bit_process_has_no_gate_area() -> None:
    machine = Machine(LINUX_5_10)
    native = machine.put("mm_struct")
    compat = machine.put("mm_struct", {"context.ia32_compat": 1})
    mms, _ = read(machine, tasks_of(native, compat))
    assert mms.has_gate_area.tolist() == [True, False]
