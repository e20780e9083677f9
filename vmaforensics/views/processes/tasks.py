"""Tasks by the kernel's own lists: ``init_task.tasks`` for leaders, ``signal->thread_head`` for threads.

for_each_process and for_each_thread of include/linux/sched/signal.h, without trusting either list to end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

TASKS = np.dtype(
    [
        ("task", np.uint64),
        ("pid", np.int32),
        ("tgid", np.int32),
        ("comm", "S16"),
        ("mm", np.uint64),
        ("active_mm", np.uint64),
        ("signal", np.uint64),
        ("parent", np.uint64),
        ("start", np.uint64),  # ns since boot
        ("flags", np.uint32),
        ("state", np.uint32),
        ("exit_state", np.int32),
        ("leader", np.bool_),
        ("ok", np.bool_),  # False: the task_struct is not in the dump, only its address is known
    ]
)

_FIELDS = (
    "pid",
    "tgid",
    "comm",
    "mm",
    "active_mm",
    "signal",
    "real_parent",
    "start_boottime|real_start_time?",
    "flags",
    "__state|state",
    "exit_state",
    "tasks.next",
    "thread_node.next",
)

_MOST = 1 << 22  # PID_MAX_LIMIT


def walk_tasks(kernel: Kernel, log: ProblemLog) -> NDArray[np.void]:
    """Every task that the lists lead to, idle task excluded; dtype ``TASKS``, sorted by tgid and pid.

    Raises :class:`KernelNotFoundError` when ``init_task`` is unknown.
    """
    first = kernel.symbols.get("init_task")
    if first is None:
        raise KernelNotFoundError("the symbol init_task is unknown, so no task list can be walked")
    leaders = _leaders(kernel, first, log)
    threads = _threads(kernel, leaders, log)
    rows = np.concatenate([leaders, threads])
    _, keep = np.unique(rows["task"], return_index=True)
    rows = rows[np.sort(keep)]
    return rows[np.lexsort((rows["task"], rows["pid"], ~rows["leader"], rows["tgid"]))]


def _leaders(kernel: Kernel, first: int, log: ProblemLog) -> NDArray[np.void]:
    """One step per process: a list has to be followed. The structures are read in one go afterwards."""
    link = kernel.offset("task_struct", "tasks.next")
    base = kernel.offset("task_struct", "tasks")
    found: list[int] = []
    seen = {first}
    task = first
    while len(found) < _MOST:
        word = np.array([task + link], np.uint64)
        data, ok = kernel.words(word, 1)
        pointer = int(data[0, 0])
        if not ok[0]:
            log.add(View.TASKS, Problem.UNREADABLE, 0, task + link)
            found += _backwards(kernel, first, seen)
            break
        after = (pointer - base) % (1 << 64)
        if after == first:
            break
        if not kernel_pointer(data[0])[0]:
            log.add(View.TASKS, Problem.NON_CANONICAL, 0, task + link, pointer)
            found += _backwards(kernel, first, seen)
            break
        if after in seen:
            log.add(View.TASKS, Problem.CYCLE, 0, task + link, pointer)
            found += _backwards(kernel, first, seen)
            break
        seen.add(after)
        found.append(after)
        task = after
    return read_tasks(kernel, np.array(found, np.uint64), leader=True, log=log)


def _backwards(kernel: Kernel, first: int, seen: set[int]) -> list[int]:
    """Where the list breaks off, its other direction still leads to the tasks behind the break."""
    link = kernel.offset("task_struct", "tasks.prev")
    base = kernel.offset("task_struct", "tasks")
    found: list[int] = []
    task = first
    while len(found) < _MOST:
        data, ok = kernel.words(np.array([task + link], np.uint64), 1)
        after = (int(data[0, 0]) - base) % (1 << 64)
        if not ok[0] or after in seen or not kernel_pointer(data[0])[0]:
            break
        seen.add(after)
        found.append(after)
        task = after
    return found[::-1]


def _threads(kernel: Kernel, leaders: NDArray[np.void], log: ProblemLog) -> NDArray[np.void]:
    """All thread lists at once, one thread of each per step."""
    base = kernel.offset("task_struct", "thread_node")
    usable = leaders["ok"] & kernel_pointer(leaders["signal"])
    head = leaders["signal"][usable] + np.uint64(kernel.offset("signal_struct", "thread_head"))
    here = head  # the list_head each list has come to; its first word is next
    seen = np.zeros(0, np.uint64)
    while len(here) and len(seen) < _MOST:
        data, ok = kernel.words(here, 1)
        after = data[:, 0]
        log.add(View.TASKS, Problem.UNREADABLE, 0, here[~ok])
        live = ok & (after != head)
        wild = live & ~kernel_pointer(after)
        log.add(View.TASKS, Problem.NON_CANONICAL, 0, here[wild], after[wild])
        live &= ~wild
        task = after - np.uint64(base)
        again = live & np.isin(task, seen)
        log.add(View.TASKS, Problem.CYCLE, 0, here[again], after[again])
        live &= ~again
        seen = np.union1d(seen, task[live])
        head, here = head[live], after[live]
    return read_tasks(kernel, np.setdiff1d(seen, leaders["task"]), leader=False, log=log)


def read_tasks(kernel: Kernel, addresses: NDArray[np.uint64], *, leader: bool, log: ProblemLog) -> NDArray[np.void]:
    """Decode the ``task_struct`` at each address; dtype ``TASKS``."""
    got, ok = kernel.gather("task_struct", addresses, _FIELDS)
    rows = np.zeros(len(addresses), TASKS)
    rows["task"], rows["ok"], rows["leader"] = addresses, ok, leader
    for column in ("pid", "tgid", "mm", "active_mm", "signal", "flags", "exit_state"):
        rows[column] = got[column]
    rows["state"] = got["__state"]
    rows["parent"] = got["real_parent"]
    rows["start"] = got["start_boottime"] if "start_boottime" in (got.dtype.names or ()) else 0
    rows["comm"] = np.ascontiguousarray(got["comm"]).view("S16").reshape(-1)
    if not ok.all():
        log.add(View.TASKS, Problem.UNREADABLE, 0, addresses[~ok])
    return rows
