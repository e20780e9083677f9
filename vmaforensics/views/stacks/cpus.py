"""What each CPU runs, and its registers: from the notes of the dump, or those the crashing kernel left in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bools
from vmaforensics.image.notes import parse_notes
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.arch.registers import CpuState
    from vmaforensics.kernel.kernel import Kernel

_NOTE_SIZE = 512  # of a CPU: header, name, elf_prstatus, and an empty note behind (kernel/crash_core.c)


@table(struct="rq")
class RunQueues(Table):
    """A row for each possible CPU, in their order: its run queue (kernel/sched/sched.h)."""

    cpu: I32
    base: U64  # what is added to the address of a per-CPU variable
    curr: U64 = member("curr?")  # task_struct that runs
    idle: U64 = member("idle?")  # task_struct of its idle task
    ok: Bools  # False: not in the dump, or the kernel has no such symbol


def read_run_queues(kernel: Kernel) -> RunQueues:
    """The run queue of each possible CPU."""
    offsets = per_cpu_offsets(kernel)
    variable = kernel.symbols.get("runqueues")
    if variable is None or kernel.types.struct("rq") is None:
        rows, ok = RunQueues.zeros(len(offsets)), np.zeros(len(offsets), np.bool_)
    else:
        with np.errstate(over="ignore"):
            rows, ok = kernel.gather(RunQueues, offsets + np.uint64(variable % (1 << 64)))
    rows.cpu[:], rows.base[:], rows.ok[:] = np.arange(len(offsets)), offsets, ok
    return rows


def cpu_registers(kernel: Kernel, queues: RunQueues, cpus: Sequence[CpuState]) -> tuple[CpuState, ...]:
    """The registers of CPUs; ``CpuState.cpu`` is the kernel's number. ``cpus`` is what the notes of the dump say.

    A hypervisor writes a note for each CPU in their order; it alone knows the register with the page tables. A crashing
    kernel writes notes only of CPUs that answered; its per-CPU ``crash_notes`` say which are whose.
    """
    if any(state.table_register is not None for state in cpus):
        return tuple(cpus)
    return _crash_notes(kernel, queues) or tuple(cpus)


def _crash_notes(kernel: Kernel, queues: RunQueues) -> tuple[CpuState, ...]:
    """What crash_save_cpu noted of each CPU; nothing in a kernel that did not crash."""
    variable = kernel.symbols.get("crash_notes")
    if variable is None:
        return ()
    pointer, ok = kernel.words(np.array([variable], np.uint64), 1)
    if not ok[0]:
        return ()
    with np.errstate(over="ignore"):
        areas, held = kernel.space.gather(queues.base + pointer[0, 0], _NOTE_SIZE)
    found = []
    for row in np.flatnonzero(held & areas.any(axis=1)).tolist():
        notes, _ = parse_notes(areas[row].tobytes(), "")
        states = kernel.arch.cpu_states(notes)
        if states and states[0].words:
            found.append(replace(states[0], cpu=int(queues.cpu[row])))
    return tuple(found)
