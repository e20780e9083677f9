"""Task lists made by hand: empty, whole, broken, circular; threads of a process."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import LINUX, Machine, circular_list

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.tasks import Tasks, walk_tasks

PAGE = 4096


def machine_with(pids: list[int], *, apart: bool = False) -> tuple[Machine, list[int]]:
    """A kernel whose task list has init_task and a process of each pid, in that order; the addresses of all.

    ``apart``: each task has a page of its own.
    """
    machine = Machine()
    tasks = []
    for pid in [0, *pids]:
        if apart:
            machine.room(0, PAGE)
        signal = machine.put("signal_struct")
        if apart:
            machine.room(0, PAGE)
        task = machine.put("task_struct", {"pid": pid, "tgid": pid, "comm": b"task %d" % pid, "signal": signal})
        circular_list(machine, machine.at("signal_struct", signal, "thread_head"), node_of(machine, task))
        tasks.append(task)
    machine.symbols["init_task"] = tasks[0]
    circular_list(machine, *(machine.at("task_struct", task, "tasks") for task in tasks))
    return machine, tasks


def node_of(machine: Machine, task: int) -> int:
    return machine.at("task_struct", task, "thread_node")


def next_of(machine: Machine, task: int) -> int:
    return machine.at("task_struct", task, "tasks.next")


def walked(machine: Machine) -> tuple[Tasks, list[tuple[Problem, int]]]:
    log = ProblemLog()
    tasks = walk_tasks(machine.kernel(), log)
    problems = log.table()
    kinds = [Problem(kind) for kind in problems.problem.tolist()]
    return tasks, list(zip(kinds, problems.where.tolist(), strict=True))


def test_a_list_of_nothing_but_init_task_has_no_process() -> None:
    machine, _ = machine_with([])
    tasks, problems = walked(machine)
    assert len(tasks) == 0
    assert problems == []


def test_every_process_is_found_once_by_tgid() -> None:
    machine, addresses = machine_with([20, 3])
    tasks, problems = walked(machine)
    assert tasks.pid.tolist() == [3, 20]
    assert tasks.task.tolist() == [addresses[2], addresses[1]]
    assert tasks.comm.tolist() == [b"task 3", b"task 20"]
    assert tasks.leader.all()
    assert problems == []


def test_threads_stand_behind_their_leader() -> None:
    machine, (_, leader) = machine_with([7])
    thread = machine.put("task_struct", {"pid": 5, "tgid": 7})
    signal = int(machine.kernel().gather_member("task_struct", "signal", np.array([leader], np.uint64))[0][0])
    head = machine.at("signal_struct", signal, "thread_head")
    circular_list(machine, head, node_of(machine, leader), node_of(machine, thread))
    tasks, problems = walked(machine)
    assert list(zip(tasks.pid.tolist(), tasks.leader.tolist(), strict=True)) == [(7, True), (5, False)]
    assert problems == []


def test_a_thread_list_that_never_comes_back_to_its_head_ends() -> None:
    machine, (_, leader) = machine_with([7])
    thread = machine.put("task_struct", {"pid": 8, "tgid": 7})
    machine.word(node_of(machine, leader), node_of(machine, thread))
    machine.word(node_of(machine, thread), node_of(machine, thread))
    tasks, problems = walked(machine)
    assert tasks.pid.tolist() == [7, 8]
    assert problems == [(Problem.CYCLE, node_of(machine, thread))]


@pytest.mark.parametrize(
    ("pointer", "problem"), [(0x1234, Problem.NON_CANONICAL), (0, Problem.NON_CANONICAL), (None, Problem.CYCLE)]
)
def test_what_lies_behind_a_break_is_found_backwards(pointer: int | None, problem: Problem) -> None:
    machine, addresses = machine_with([1, 2, 3, 4])
    word = next_of(machine, addresses[2])
    machine.word(word, machine.at("task_struct", addresses[1], "tasks") if pointer is None else pointer)
    tasks, problems = walked(machine)
    assert tasks.pid.tolist() == [1, 2, 3, 4]
    assert problems == [(problem, word)]


def test_a_task_that_is_not_in_the_dump_is_known_by_its_address() -> None:
    machine, addresses = machine_with([1, 2, 3], apart=True)
    machine.drop(addresses[2])
    tasks, problems = walked(machine)
    assert sorted(tasks.task.tolist()) == sorted(addresses[1:])
    assert tasks.task[~tasks.ok].tolist() == [addresses[2]]
    assert tasks.pid[tasks.ok].tolist() == [1, 3]
    assert (Problem.UNREADABLE, next_of(machine, addresses[2])) in problems


def test_an_unlinked_task_is_not_listed() -> None:
    machine, addresses = machine_with([1, 2, 3])
    circular_list(machine, *(machine.at("task_struct", addresses[row], "tasks") for row in (0, 1, 3)))
    tasks, problems = walked(machine)
    assert tasks.pid.tolist() == [1, 3]
    assert problems == []


def test_an_older_kernel_names_state_and_start_otherwise() -> None:
    words = LINUX["task_struct"].replace("__state:u32", "state:i64").replace("start_boottime", "real_start_time")
    machine = Machine(LINUX | {"task_struct": words})
    task = machine.put("task_struct", {"pid": 1, "tgid": 1, "state": 2, "real_start_time": 99})
    machine.symbols["init_task"] = init = machine.put("task_struct")
    circular_list(machine, *(machine.at("task_struct", one, "tasks") for one in (init, task)))
    tasks, _ = walked(machine)
    assert (tasks.state.tolist(), tasks.start.tolist()) == ([2], [99])


def test_without_init_task_nothing_can_be_walked() -> None:
    with pytest.raises(KernelNotFoundError, match="init_task"):
        walk_tasks(Machine().kernel(), ProblemLog())
