"""Records beside the task list that know of tasks and mms, on memories made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import LINUX, Machine, circular_list

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mm_lists import on_lru_lists
from vmaforensics.views.processes.mm_sources import Source, gather_sources
from vmaforensics.views.processes.pid_idr import tasks_by_pid
from vmaforensics.views.processes.tasks import Tasks, read_tasks

STRUCTS = LINUX | {
    "xa_node": "shift:u8 offset:u8 slots:*[64]",
    "xarray": "xa_lock:u64 xa_head:*",
    "idr": "idr_rt:xarray idr_base:u32",
    "pid_namespace": "idr:idr rcu:u64",
    "hlist_head": "first:*",
    "pid": "count:u64 tasks:hlist_head[4]",
    "task_struct": LINUX["task_struct"] + " pid_links:hlist_node[4] in_execve:u32",
    "lru_gen": "list:list_head",
    "mm_struct": LINUX["mm_struct"] + " owner:* lru_gen:lru_gen",
}


class Processes:
    """A kernel with an index of process ids."""

    def __init__(self) -> None:
        self.machine = Machine(STRUCTS)
        self.slots = [0] * 64
        self.log = ProblemLog()

    def add(self, pid: int, mm: int = 0, *, indexed: bool = True, **members: int) -> int:
        task = self.machine.put("task_struct", {"pid": pid, "tgid": pid, "mm": mm, **members})
        if indexed:
            number = self.machine.put("pid", {"tasks": self.machine.at("task_struct", task, "pid_links")})
            self.slots[pid] = number
        return task

    def index(self) -> None:
        """Write the index."""
        node = self.machine.put("xa_node", {"slots": self.slots})
        self.machine.symbols["init_pid_ns"] = self.machine.put("pid_namespace", {"idr.idr_rt.xa_head": node | 2})

    def listed(self, *tasks: int) -> Tasks:
        """What walking the task list would give."""
        return read_tasks(self.machine.kernel(), np.array(tasks, np.uint64), leader=True, log=self.log)

    def problems(self) -> list[Problem]:
        return [Problem(kind) for kind in self.log.table().problem.tolist()]


@pytest.fixture
def processes() -> Processes:
    return Processes()


def test_every_number_leads_to_its_task(processes: Processes) -> None:
    tasks = [processes.add(pid) for pid in (1, 9, 63)]
    processes.index()
    found = tasks_by_pid(processes.machine.kernel(), processes.log)
    assert found is not None
    assert (found.addresses.tolist(), found.whole) == (sorted(tasks), True)
    assert processes.problems() == []


def test_a_number_that_is_only_taken_and_one_that_leads_astray(processes: Processes) -> None:
    task = processes.add(1)
    processes.slots[2] = 0x1000
    processes.index()
    found = tasks_by_pid(processes.machine.kernel(), processes.log)
    assert found is not None
    assert found.addresses.tolist() == [task]
    assert processes.problems() == [Problem.NON_CANONICAL]


def test_tasks_of_one_number_in_a_circle_are_each_found_once(processes: Processes) -> None:
    first, second = processes.add(1), processes.add(2, indexed=False)
    links = [processes.machine.at("task_struct", task, "pid_links") for task in (first, second)]
    processes.machine.word(links[0], links[1])
    processes.machine.word(links[1], links[0])
    processes.index()
    found = tasks_by_pid(processes.machine.kernel(), processes.log)
    assert found is not None
    assert found.addresses.tolist() == sorted([first, second])
    assert processes.problems() == [Problem.CYCLE]


def test_a_kernel_without_the_index_says_so() -> None:
    kernel = Machine(STRUCTS).kernel()
    assert tasks_by_pid(kernel, ProblemLog()) is None
    assert any("init_pid_ns" in text for text in kernel.identity.problems)


def test_a_process_that_only_the_index_knows(processes: Processes) -> None:
    seen_mm, hidden_mm = (processes.machine.put("mm_struct", {"map_count": 9, "mm_users.counter": 1}) for _ in "12")
    seen, hidden = processes.add(5, seen_mm), processes.add(6, hidden_mm, in_execve=1)
    processes.machine.set("mm_struct", hidden_mm, "owner", hidden)
    processes.index()
    sources = gather_sources(processes.machine.kernel(), processes.listed(seen), None, processes.log)
    known = dict(zip(sources.tasks.task.tolist(), map(Source, sources.task_sources.tolist()), strict=True))
    assert known == {seen: Source.TASK_LIST | Source.PID_INDEX, hidden: Source.PID_INDEX}
    assert sources.executing.tolist() == [task == hidden for task in sources.tasks.task.tolist()]
    assert sources.tasks.leader.tolist() == [task == seen for task in sources.tasks.task.tolist()]
    assert sources.hidden().mm.tolist() == [hidden_mm]
    assert sources.mms.pid.tolist() == [5, 6]
    assert sources.owner.tolist() == [0, hidden]
    assert sources.whole == Source.TASK_LIST | Source.PID_INDEX | Source.LRU_GEN
    assert sources.task_rows(np.array([hidden, 5], np.uint64)).tolist()[1] == -1


def test_an_mm_of_one_vma_is_what_exec_is_making(processes: Processes) -> None:
    mm = processes.machine.put("mm_struct", {"map_count": 1, "mm_users.counter": 1})
    processes.add(6, mm)
    processes.index()
    sources = gather_sources(processes.machine.kernel(), processes.listed(), None, processes.log)
    assert (sources.mms.mm.tolist(), len(sources.hidden())) == ([mm], 0)


def test_what_exit_left_on_no_list_is_not_on_the_lru_lists() -> None:
    machine = Machine(STRUCTS)
    mms = [machine.put("mm_struct") for _ in range(3)]
    head = machine.put("list_head")
    circular_list(machine, head, *(machine.at("mm_struct", mm, "lru_gen.list") for mm in mms[:2]))
    found = on_lru_lists(machine.kernel(), np.array(mms, np.uint64), ProblemLog())
    assert found is not None
    assert (found.addresses.tolist(), found.whole) == (mms[:2], True)
    assert on_lru_lists(Machine().kernel(), np.array(mms, np.uint64), ProblemLog()) is None
