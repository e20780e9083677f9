"""Stacks as parts of the document: of the task that died, of CPUs, of tasks that wait and cannot be woken, of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import values_at
from vmaforensics.crash.document import Frame, StackPart, StackTask
from vmaforensics.views.stacks.frames import End, How
from vmaforensics.views.stacks.lines import end_text, group_stacks
from vmaforensics.words.amounts import counted
from vmaforensics.words.printable import decoded, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.columns.types import U32, Bools
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.stacks.stacks import StacksView

# include/linux/sched.h. A task in TASK_UNINTERRUPTIBLE shows as D, one that may also be left out of the load
# (TASK_NOLOAD) as I: it is idle.
_UNINTERRUPTIBLE: Final = 0x2
_NOLOAD: Final = 0x400
_MOST_NAMED: Final = 1000  # tasks of one group
# What only a task has on its stack that ends the kernel.
_ENDING: Final = frozenset({"panic", "vpanic", "crash_kexec", "__crash_kexec"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseStacks:
    """The stacks of a case, and the tasks whose they are."""

    view: StacksView
    tasks: Tasks

    def of_cpu(self, cpu: int) -> list[int]:
        """Rows of the stacks that were on a CPU."""
        found: list[int] = np.flatnonzero(self.view.stacks.cpu == cpu).tolist()
        return found

    def functions(self, row: int, *, from_interrupted: bool = False) -> list[str]:
        """Names of the functions of a stack, innermost first, without those that are only guesses; not fit to be shown.

        With ``from_interrupted`` from where an interrupt or exception came upon kernel code, if one did.
        """
        frames = self.view.frames
        first, count = int(self.view.stacks.first[row]), int(self.view.stacks.count[row])
        chosen = list(range(first, first + count))
        if from_interrupted:
            chosen = chosen[next((at for at, row in enumerate(chosen) if frames.how[row] == How.INTERRUPTED), 0) :]
        return [
            decoded(self.view.names[int(frames.function[row])])
            for row in chosen
            if frames.sure[row] and frames.function[row] >= 0
        ]

    def ending_cpu(self) -> int | None:
        """The CPU that has a function on its stack which only a kernel calls that ends; None for none or several."""
        on_cpu = np.flatnonzero(self.view.stacks.cpu >= 0).tolist()
        found = {int(self.view.stacks.cpu[row]) for row in on_cpu if _ENDING.intersection(self.functions(row))}
        return found.pop() if len(found) == 1 else None

    def unfinished(self) -> Iterator[str]:
        """How many stacks could not be followed to their beginning, for each reason; those that are gone apart."""
        ends = self.view.stacks.end
        for end in End:
            count = int((ends == end).sum())
            if count and not end.whole and end != End.NO_STACK:
                yield f"{counted(count, 'stack')} could not be followed to the beginning: {end.text}"


def stack_parts(stacks: CaseStacks, died: int | None, *, everyone: bool) -> Iterator[StackPart]:
    """The stack of CPU ``died`` first, then those of other CPUs, of tasks that wait, and, if asked, of ``everyone``."""
    view, tasks = stacks.view, stacks.tasks
    done: set[int] = set()
    cpus = sorted(set(view.stacks.cpu[view.stacks.cpu >= 0].tolist()), key=lambda cpu: (cpu != died, cpu))
    for cpu in cpus:
        for row in stacks.of_cpu(cpu):
            done.add(row)
            yield _part("died" if cpu == died else "cpu", stacks, (row,))
    state = values_at(tasks.state, view.stacks.row)
    waits = (view.stacks.row >= 0) & waits_uninterruptibly(state)
    waiting = [row for row in np.flatnonzero(waits).tolist() if row not in done]
    for alike in group_stacks(view, waiting):
        yield _part("waits", stacks, alike.rows)
    if everyone:
        others = set(range(len(view.stacks))) - done - set(waiting)
        for alike in group_stacks(view, sorted(others)):
            yield _part("other", stacks, alike.rows)


def waits_uninterruptibly(state: U32) -> Bools:
    """Which states of tasks are an uninterruptible sleep (D) and no idle one (I)."""
    waits: Bools = (state & _UNINTERRUPTIBLE != 0) & (state & _NOLOAD == 0)
    return waits


def _part(why: str, stacks: CaseStacks, rows: tuple[int, ...]) -> StackPart:
    """Stacks that are alike, as one."""
    view = stacks.view
    first, count = int(view.stacks.first[rows[0]]), int(view.stacks.count[rows[0]])
    return StackPart(
        why=why,
        tasks=[_task(stacks, row) for row in rows[:_MOST_NAMED]],
        count=len(rows),
        frames=[_frame(view, frame) for frame in range(first, first + count)],
        end=end_text(view, rows[0]),
        whole=End(int(view.stacks.end[rows[0]])).whole,
    )


def _task(stacks: CaseStacks, row: int) -> StackTask:
    """Whose stack it is; the idle task of a CPU is in no list, and has the pid 0."""
    view, tasks = stacks.view, stacks.tasks
    task, cpu = int(view.stacks.row[row]), int(view.stacks.cpu[row])
    return StackTask(
        task=hex(int(view.stacks.task[row])),
        pid=int(tasks.pid[task]) if task >= 0 else 0,
        tgid=int(tasks.tgid[task]) if task >= 0 else 0,
        comm=printable(tasks.comm[task].split(b"\0", 1)[0]) if task >= 0 else "swapper",
        cpu=None if cpu < 0 else cpu,
    )


def _frame(view: StacksView, row: int) -> Frame:
    """A frame; where no symbol is known, its address stands for the name."""
    frames, function = view.frames, int(view.frames.function[row])
    module = int(view.functions.module[function]) if function >= 0 else -1
    address = hex(int(frames.ip[row]))
    return Frame(
        name=printable(view.names[function]) if function >= 0 else address,
        offset=int(frames.offset[row]) if function >= 0 else 0,
        size=int(view.functions.size[function]) if function >= 0 else 0,
        module=printable(view.modules.name_of(module)) if module >= 0 else None,
        reliable=bool(frames.sure[row]),
        interrupted=bool(frames.how[row] == How.INTERRUPTED),
        address=address,
        how=How(int(frames.how[row])).text,
        stack=view.kinds[int(frames.kind[row])],
    )
