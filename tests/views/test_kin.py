"""Lists of children and counts of what tasks share, in a memory made by hand."""

from __future__ import annotations

import numpy as np
from handmade import CONSTANTS, LINUX, Machine, circular_list

from vmaforensics.views.processes.kin import SharedKind, read_kin
from vmaforensics.views.processes.tasks import Tasks

NONE = np.zeros(0, np.uint64)
STRUCTS = LINUX | {
    "task_struct": "pid:u32 real_parent:* children:list_head sibling:list_head fs:* files:*",
    "fs_struct": "users:u32",
    "files_struct": "count:u32",
}


def task(machine: Machine, parent: int, fs: int, files: int) -> int:
    at = machine.put("task_struct", {"real_parent": parent, "fs": fs, "files": files})
    circular_list(machine, machine.at("task_struct", at, "children"))
    circular_list(machine, machine.at("task_struct", at, "sibling"))
    return at


def test_each_process_is_on_the_list_of_its_parent_and_what_tasks_share_counts_them() -> None:
    machine = Machine(STRUCTS, CONSTANTS)
    kernel_fs, fs = (machine.put("fs_struct", {"users": users}) for users in (3, 2))
    kernel_files, files, own = (machine.put("files_struct", {"count": count}) for count in (1, 2, 1))
    first = machine.symbols["init_task"] = task(machine, 0, kernel_fs, kernel_files)
    init = task(machine, first, kernel_fs, own)
    children = [task(machine, init, fs, files) for _ in range(5)]
    circular_list(
        machine,
        machine.at("task_struct", init, "children"),
        *(machine.at("task_struct", at, "sibling") for at in children),
    )
    circular_list(machine, machine.at("task_struct", first, "children"), machine.at("task_struct", init, "sibling"))
    tasks = Tasks.of(task=[init, *children], pid=[1, 10, 11, 12, 13, 14], ok=[True] * 6)
    kin, shared = read_kin(machine.kernel(), tasks, tasks.task, NONE, NONE)
    assert kin.forward.tolist() == kin.backward.tolist() == kin.real_parent.tolist() == [first, *[init] * 5]
    rows = {
        (SharedKind(kind), at): (tasks, users, kept)
        for kind, at, tasks, users, kept in zip(
            *(getattr(shared, name).tolist() for name in ("kind", "address", "tasks", "users", "kept")), strict=True
        )
    }
    assert rows == {
        (SharedKind.FS, kernel_fs): (2, 3, True),
        (SharedKind.FS, fs): (5, 2, False),
        (SharedKind.FILES, kernel_files): (1, 1, True),
        (SharedKind.FILES, own): (1, 1, True),
        (SharedKind.FILES, files): (5, 2, False),
    }


def test_a_list_that_breaks_off_leads_on_from_its_other_end() -> None:
    machine = Machine(STRUCTS, CONSTANTS)
    init = task(machine, 0, 0, 0)
    children = [task(machine, init, 0, 0) for _ in range(4)]
    circular_list(
        machine,
        machine.at("task_struct", init, "children"),
        *(machine.at("task_struct", at, "sibling") for at in children),
    )
    lost = children.pop(1)  # no record knows it
    tasks = Tasks.of(task=[init, *children], pid=range(1, 5), ok=[True] * 4)
    kin, _ = read_kin(machine.kernel(), tasks, tasks.task, NONE, NONE)
    assert lost not in kin.task.tolist()
    assert kin.forward[1:].tolist() == [0, init, init]
    assert kin.backward[1:].tolist() == [init, 0, 0]
    assert kin.forward[0] == kin.backward[0] == np.uint64(0), "init's own list has no head here"


def test_a_task_is_linked_if_what_it_leads_to_leads_back() -> None:
    machine = Machine(STRUCTS, CONSTANTS)
    init = task(machine, 0, 0, 0)
    only, copy, fresh = (task(machine, init, 0, 0) for _ in range(3))
    place = machine.at("task_struct", only, "sibling")
    circular_list(machine, machine.at("task_struct", init, "children"), place)
    for member in ("sibling.next", "sibling.prev"):
        machine.write(
            machine.at("task_struct", copy, member), machine.at("task_struct", init, "children").to_bytes(8, "little")
        )
    tasks = Tasks.of(task=[init, only, copy, fresh], pid=range(1, 5), ok=[True] * 4)
    kin, _ = read_kin(machine.kernel(), tasks, tasks.task, NONE, NONE)
    assert kin.linked.tolist() == [False, True, False, False]


def test_what_was_released_makes_no_group_of_a_process_of_one_thread() -> None:
    """list_del_rcu in __unhash_process (kernel/exit.c): the last to leave leads on, and nobody leads to it."""
    structs = STRUCTS | {"task_struct": STRUCTS["task_struct"] + " thread_group:list_head"}
    machine = Machine(structs, CONSTANTS)
    first, thread = (task(machine, 0, 0, 0) for _ in range(2))
    places = [machine.at("task_struct", at, "thread_group") for at in (first, thread)]
    circular_list(machine, places[0])
    circular_list(machine, places[1])
    tasks = Tasks.of(task=[first, thread], pid=[10, 11], tgid=[10, 10], ok=[True] * 2)
    kin, _ = read_kin(machine.kernel(), tasks, tasks.task, NONE, NONE)
    assert kin.in_group.tolist() == [False, False], "taken off this list alone"
    machine.write(machine.at("task_struct", thread, "thread_group.next"), places[0].to_bytes(8, "little"))
    kin, _ = read_kin(machine.kernel(), tasks, tasks.task[:1], NONE, NONE)
    assert kin.in_group.tolist() == [True, False]


def test_what_fork_is_making_may_be_counted_or_not() -> None:
    """dup_task_struct copies the words first, copy_files and the like count afterwards (kernel/fork.c)."""
    machine = Machine(STRUCTS, CONSTANTS)
    fs, files = machine.put("fs_struct", {"users": 2}), machine.put("files_struct", {"count": 1})
    parent, copy, new = (task(machine, 0, fs, files) for _ in range(3))
    coming = np.array(sorted([copy, new]), np.uint64)
    tasks = Tasks.of(task=[parent, copy, new], pid=[10, 10, 11], ok=[True] * 3)
    kin, shared = read_kin(machine.kernel(), tasks, tasks.task[:1], np.array([copy], np.uint64), coming)
    assert kin.task.tolist() == [parent, new]
    assert (shared.tasks.tolist(), shared.coming.tolist(), shared.users.tolist()) == ([1, 1], [2, 2], [2, 1])
