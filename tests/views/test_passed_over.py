"""Processes that the list passes over, and what was read of them after it: a memory made by hand, read upwards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from handmade import LINUX, PAGE, Machine

from vmaforensics.views.clocks.passed_over import PassedOver, passed_over
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.tasks import read_tasks

STRUCTS = LINUX | {
    "task_struct": LINUX["task_struct"]
    + " start_time:u64 group_leader:* thread_pid:* pid_links:hlist_node[4] real_parent:* sibling:list_head"
    " cg_list:list_head",
    "signal_struct": "nr_threads:i32 thread_head:list_head",
    "pid": "count:i32 tasks:*[4]",
    "mm_struct": LINUX["mm_struct"] + " owner:*",
}
EARLY, LATE = 10**9, 50 * 10**9  # ns after boot


class Line:
    """Three tasks in a row on the list, the second of which was cut out; further objects are put where a test says."""

    def __init__(self, order: str, beside: int = EARLY) -> None:
        """``order`` is that of the pages of the first, the hidden and the last, as "fhl"."""
        self.machine = Machine(STRUCTS)
        put = {letter: self._task(number, beside) for number, letter in enumerate(order, 10)}
        self.first, self.hidden, self.last = (put[letter] for letter in "fhl")
        tasks = {name: self.machine.at("task_struct", put[name], "tasks") for name in "fhl"}
        for here, after in (("f", "l"), ("h", "l")):
            self.machine.set("task_struct", put[here], "tasks.next", tasks[after])
        for here, before in (("l", "f"), ("h", "f")):
            self.machine.set("task_struct", put[here], "tasks.prev", tasks[before])

    def _task(self, pid: int, started: int) -> int:
        members = {"pid": pid, "tgid": pid, "start_time": started}
        self.page()
        return self.machine.put("task_struct", members)

    def page(self) -> None:
        """What is put next lies in a page of its own."""
        self.machine.room(PAGE, PAGE)

    def asked(self, *others: int) -> PassedOver:
        """Of the hidden one, and of other tasks."""
        kernel = self.machine.kernel()
        tasks = read_tasks(kernel, np.array([self.hidden, *others], np.uint64), leader=True, log=ProblemLog())
        return passed_over(kernel, tasks)


@pytest.mark.parametrize(
    ("order", "both", "one"),
    [("flh", True, True), ("fhl", False, True), ("lhf", False, True), ("hfl", False, False)],
)
def test_neighbours_that_were_read_before_the_task_prove_that_it_was_passed_over(
    order: str, *, both: bool, one: bool
) -> None:
    found = Line(order).asked()
    assert found.bypassed.tolist() == [True]
    assert (found.proven.tolist(), found.by_one.tolist()) == ([both], [one])


@pytest.mark.parametrize("what", ["pid", "owner", "thread", "signal"])
def test_what_was_read_after_its_neighbours_says_that_it_lived_still(what: str) -> None:
    line = Line("hfl")
    machine, hidden = line.machine, line.hidden
    line.page()
    others = []
    if what == "pid":
        links = machine.at("task_struct", hidden, "pid_links")
        pid = machine.put("pid")
        machine.word(machine.at("pid", pid, "tasks"), links)
        machine.set("task_struct", hidden, "thread_pid", pid)
    elif what == "owner":
        machine.set("task_struct", hidden, "mm", machine.put("mm_struct", {"owner": hidden}))
    elif what == "thread":
        others = [machine.put("task_struct", {"pid": 20, "tgid": 10, "group_leader": hidden})]
    else:
        node = machine.at("task_struct", hidden, "thread_node")
        signal = machine.put("signal_struct", {"nr_threads": 1, "thread_head.next": node})
        machine.set("task_struct", hidden, "signal", signal)
    assert line.asked(*others).proven.tolist()[0] is True


def test_what_names_another_says_nothing() -> None:
    line = Line("hfl")
    line.page()
    line.machine.set("task_struct", line.hidden, "mm", line.machine.put("mm_struct", {"owner": line.first}))
    assert line.asked().by_one.tolist() == [False]


def test_a_thread_that_exits_says_nothing() -> None:
    line = Line("hfl")
    line.page()
    members = {"pid": 20, "tgid": 10, "group_leader": line.hidden, "exit_state": 0x20}
    assert line.asked(line.machine.put("task_struct", members)).by_one.tolist()[0] is False


def test_a_task_that_names_another_as_the_next_was_on_the_list_before_it() -> None:
    line = Line("flh")
    line.machine.symbols["init_task"] = line.first
    assert line.asked().followed.tolist() == [True]
    line = Line("flh")
    line.machine.symbols["init_task"] = line.last  # which is where the list begins and ends
    assert line.asked().followed.tolist() == [False]


def test_the_younger_of_both_neighbours_is_told() -> None:
    assert Line("fhl", LATE).asked().beside.tolist() == [LATE]


def test_a_task_in_its_place_is_not_passed_over() -> None:
    line = Line("flh")
    here = line.machine.at("task_struct", line.hidden, "tasks")
    line.machine.set("task_struct", line.first, "tasks.next", here)
    assert line.asked().bypassed.tolist() == [False]


def link(machine: Machine, path: str, *tasks: int, back: bool = True) -> None:
    """Each points to the next on a list of tasks, and back."""
    for here, after in pairwise(tasks):
        machine.set("task_struct", here, f"{path}.next", machine.at("task_struct", after, path))
        if back:
            machine.set("task_struct", after, f"{path}.prev", machine.at("task_struct", here, path))


@pytest.mark.parametrize("path", ["sibling", "cg_list"])
def test_a_neighbour_on_another_list_that_has_it_still_was_read_at_the_same_moment(path: str) -> None:
    line = Line("hfl")
    link(line.machine, path, line.first, line.hidden, line.last)
    found = line.asked(line.first, line.last)
    assert (found.proven.tolist()[0], found.by_one.tolist()[0]) == (True, True)


def test_a_copy_of_a_neighbour_that_points_there_says_nothing() -> None:
    line = Line("hfl")
    line.page()
    copy = line.machine.put("task_struct", {"pid": 20, "tgid": 20})
    link(line.machine, "sibling", copy, line.hidden, back=False)
    line.machine.set("task_struct", copy, "real_parent", line.hidden)
    assert line.asked(copy).by_one.tolist()[0] is False


def test_a_child_that_has_its_parent_still_was_read_while_that_lived() -> None:
    line = Line("hfl")
    machine = line.machine
    line.page()
    pid = machine.put("pid")
    child = machine.put("task_struct", {"pid": 20, "tgid": 20, "real_parent": line.hidden, "thread_pid": pid})
    machine.word(machine.at("pid", pid, "tasks"), machine.at("task_struct", child, "pid_links"))
    assert line.asked(child).proven.tolist()[0] is True


@pytest.mark.parametrize("path", ["sibling", "cg_list"])
def test_a_brother_that_was_read_later_and_no_longer_has_it_says_that_it_is_gone(path: str) -> None:
    line = Line("hfl")
    link(line.machine, path, line.first, line.hidden, line.last)
    for other in (line.first, line.last):
        line.machine.set("task_struct", other, f"{path}.next", 0)
        line.machine.set("task_struct", other, f"{path}.prev", 0)
    found = line.asked(line.first, line.last)
    assert found.by_one.tolist()[0] is False
    assert found.gone.tolist()[0] is (path == "sibling")  # control groups are moved between


def test_a_brother_that_was_read_before_says_nothing_of_what_came_later() -> None:
    line = Line("flh")
    for side, other in (("prev", line.first), ("next", line.last)):
        line.machine.set(
            "task_struct", line.hidden, f"sibling.{side}", line.machine.at("task_struct", other, "sibling")
        )
    assert line.asked(line.first, line.last).gone.tolist()[0] is False
