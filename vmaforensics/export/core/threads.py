"""The threads of a process with the registers they will go on with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.anchors.registers import read_threads
from vmaforensics.views.problems import ProblemLog
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from vmaforensics.arch.registers import CpuState
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.views import Views

# Where registers come from, and what that means.
STACK, CPU, NONE = "kernel stack", "CPU notes", "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """One thread of a core file."""

    tid: int
    comm: str
    task: int  # address of the task_struct
    registers: tuple[int, ...]  # words of elf_gregset_t; zeros where they are not known
    source: str  # STACK, CPU or NONE
    floating: tuple[tuple[str, int, bytes], ...]  # notes
    missing: tuple[str, ...]  # sentences


def core_threads(kernel: Kernel, views: Views, tasks: Tasks, cpus: tuple[CpuState, ...]) -> list[Thread]:
    """The threads of ``tasks``, which share one memory map, the leader first.

    A thread that ran user code when the image was taken has its registers in the notes of the dump; what its stack
    holds is of an earlier entry, and is used for nothing. All others have theirs on the kernel stack.
    """
    known = views.anchors.threads if views.anchors is not None else None
    if known is None or not np.isin(tasks.task, known.task).all():
        known, _ = read_threads(kernel, tasks, cpus, ProblemLog())
    rows = known.take(np.isin(known.task, tasks.task))
    leaders = rows.pid == rows.tgid
    rows = rows.sort_by(~leaders, rows.pid)
    saved = kernel.arch.core_registers(kernel, rows.task, rows.registers)
    floating = kernel.arch.core_floating(kernel, rows.task)
    by_cpu = {state.cpu: state for state in cpus}
    comms = dict(zip(tasks.task.tolist(), tasks.comm.tolist(), strict=True))
    threads = []
    for row in range(len(rows)):
        missing: list[str] = []
        words, source = (0,) * saved.words.shape[1], NONE
        running, on_stack = bool(rows.running[row]), bool(rows.registers[row])
        if running and not on_stack:
            state = by_cpu.get(int(rows.cpu[row]))
            ours = kernel.arch.core_registers_of_cpu(state) if state is not None else ()
            if ours:
                words, source = ours, CPU
        elif on_stack and saved.ok[row] and (bool(rows.user[row]) or not running):
            words, source = tuple(saved.words[row].tolist()), STACK
        if source == NONE:
            why = "it ran on a CPU whose registers are not in the image" if running else "its stack is not in the image"
            missing.append(f"registers: {why}")
        elif source == STACK and not bool(rows.user[row]):
            missing.append("the registers on its stack are not those of ordinary 64-bit user code")
        notes = floating[row]
        if running:
            missing.append("floating-point and vector registers: they were in the CPU")
            notes = None
        elif notes is None:
            missing.append("floating-point and vector registers: not in the image")
        elif notes.left_out:
            missing.append(f"state in use that core files have no place for (components {notes.left_out:#x})")
        threads.append(
            Thread(
                tid=int(rows.pid[row]),
                comm=printable(comm_of(comms[int(rows.task[row])])),
                task=int(rows.task[row]),
                registers=words,
                source=source,
                floating=notes.notes if notes is not None else (),
                missing=tuple(missing),
            )
        )
    return threads
