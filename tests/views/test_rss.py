"""Resident-set counters in the three ways in which kernels have kept them."""

from __future__ import annotations

import numpy as np
from handmade import LINUX, Machine

from vmaforensics.views.pages.rss import read_rss
from vmaforensics.views.processes.mms import Mms
from vmaforensics.views.processes.tasks import Tasks

NUMBERS = {"MM_FILEPAGES": 0, "MM_ANONPAGES": 1, "MM_SWAPENTS": 2, "MM_SHMEMPAGES": 3}
# Up to 6.1: struct mm_rss_stat, and struct task_rss_stat with SPLIT_RSS_COUNTING (include/linux/mm_types_task.h).
OLD = LINUX | {
    "mm_struct": "map_count:i32 rss_stat:mm_rss_stat",
    "mm_rss_stat": "count:atomic64_t[4]",
    "task_struct": "pid:i32 rss_stat:task_rss_stat",
    "task_rss_stat": "events:i32 count:i32[4]",
}
# Since 6.2 (f1a7941243c1).
NEW = LINUX | {
    "mm_struct": "map_count:i32 rss_stat:percpu_counter[4]",
    "percpu_counter": "lock:u32 count:i64 counters:*",
}


def mms_of(*addresses: int) -> Mms:
    return Mms.of(mm=addresses, ok=np.ones(len(addresses), np.bool_))


def tasks_of(*pairs: tuple[int, int]) -> Tasks:
    task, mm = [task for task, _ in pairs], [mm for _, mm in pairs]
    return Tasks.of(task=task, mm=mm, ok=np.ones(len(task), np.bool_))


def put_counts(machine: Machine, address: int, counts: list[int]) -> None:
    for number, count in enumerate(counts):
        machine.word(address + 8 * number, count)


def test_counts_of_the_mm_and_of_its_threads_are_added() -> None:
    machine = Machine(OLD, NUMBERS)
    mm, other = machine.put("mm_struct"), machine.put("mm_struct")
    put_counts(machine, machine.at("mm_struct", mm, "rss_stat.count"), [10, 20, 30, 40])
    threads = [machine.put("task_struct", {"rss_stat.count": counts}) for counts in ([1, -2, 0, 4], [5, 0, 0, -1])]
    stranger = machine.put("task_struct", {"rss_stat.count": [7, 7, 7, 7]})
    tasks = tasks_of((threads[0], mm), (threads[1], mm), (stranger, 0))
    counts, ok = read_rss(machine.kernel(), mms_of(mm, other), tasks, tasks_whole=True)
    assert counts.tolist() == [[16, 18, 30, 43], [0, 0, 0, 0]]
    assert ok.tolist() == [True, True]


def test_a_task_that_was_not_found_may_have_kept_counts_of_any_process() -> None:
    machine = Machine(OLD, NUMBERS)
    mm = machine.put("mm_struct")
    counts, ok = read_rss(machine.kernel(), mms_of(mm), Tasks.zeros(0), tasks_whole=False)
    assert (counts.tolist(), ok.tolist()) == ([[0, 0, 0, 0]], [False])


def test_without_split_counting_lost_tasks_do_not_matter() -> None:
    machine = Machine(OLD | {"task_struct": "pid:i32"}, NUMBERS)
    mm = machine.put("mm_struct")
    put_counts(machine, machine.at("mm_struct", mm, "rss_stat.count"), [1, 2, 3, 4])
    counts, ok = read_rss(machine.kernel(), mms_of(mm), Tasks.zeros(0), tasks_whole=False)
    assert (counts.tolist(), ok.tolist()) == ([[1, 2, 3, 4]], [True])


def test_per_cpu_parts_are_added() -> None:
    machine = Machine(NEW, NUMBERS)
    table, cpus = machine.room(16), machine.room(4)
    machine.write(cpus, (2).to_bytes(4, "little"))
    areas = [machine.room(64), machine.room(64)]
    for number, area in enumerate(areas):
        machine.word(table + 8 * number, area - areas[0])
    machine.symbols |= {"__per_cpu_offset": table, "nr_cpu_ids": cpus}
    mm = machine.put("mm_struct")
    first = machine.at("mm_struct", mm, "rss_stat")
    size = machine.kernel().sizeof("percpu_counter")
    for number in range(4):
        machine.set("percpu_counter", first + size * number, "count", 100 * number)
        machine.set("percpu_counter", first + size * number, "counters", areas[0] + 4 * number)
        for part, area in zip((3, -1), areas, strict=True):
            machine.write(area + 4 * number, part.to_bytes(4, "little", signed=True))
    counts, ok = read_rss(machine.kernel(), mms_of(mm), Tasks.zeros(0), tasks_whole=False)
    assert (counts.tolist(), ok.tolist()) == ([[2, 102, 202, 302]], [True])


def test_a_kernel_for_one_cpu_keeps_no_parts() -> None:
    # Without CONFIG_SMP struct percpu_counter is a count alone (include/linux/percpu_counter.h).
    machine = Machine(NEW | {"percpu_counter": "count:i64"}, NUMBERS)
    mm = machine.put("mm_struct")
    put_counts(machine, machine.at("mm_struct", mm, "rss_stat"), [9, 8, 7, 6])
    counts, ok = read_rss(machine.kernel(), mms_of(mm), Tasks.zeros(0), tasks_whole=False)
    assert (counts.tolist(), ok.tolist()) == ([[9, 8, 7, 6]], [True])


def test_a_process_without_its_counters_is_not_judged() -> None:
    machine = Machine(NEW, NUMBERS)
    machine.symbols["__per_cpu_offset"] = machine.room(8)
    mm = machine.put("mm_struct")  # the pointers to the parts are NULL
    _, ok = read_rss(machine.kernel(), mms_of(mm), Tasks.zeros(0), tasks_whole=True)
    assert ok.tolist() == [False]


def test_a_kernel_with_neither_is_not_judged() -> None:
    machine = Machine(LINUX, NUMBERS)
    counts, ok = read_rss(machine.kernel(), mms_of(machine.put("mm_struct")), Tasks.zeros(0), tasks_whole=True)
    assert (counts.tolist(), ok.tolist()) == ([[0, 0, 0, 0]], [False])


def test_an_mm_that_is_not_in_the_image_is_not_judged() -> None:
    machine = Machine(OLD, NUMBERS)
    mm = machine.put("mm_struct")
    _, ok = read_rss(machine.kernel(), Mms.of(mm=[mm], ok=[False]), Tasks.zeros(0), tasks_whole=True)
    assert ok.tolist() == [False]
