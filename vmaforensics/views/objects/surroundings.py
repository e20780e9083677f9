"""What has to be known of a kernel before addresses can be told apart: its stacks, code, modules and per-CPU memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.unwinding import ModuleCode
from vmaforensics.columns.lookup import covering_rows, distinct, rows_of, sort_order
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, U8, U64
from vmaforensics.views.objects.typed import follow_types
from vmaforensics.views.stacks.cpus import read_run_queues
from vmaforensics.views.stacks.modules import module_memory
from vmaforensics.views.structures.per_cpu import per_cpu_offsets
from vmaforensics.views.system.modules import read_modules

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.objects.typed import TypedPointers
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.system.modules import Modules


@table()
class StackRanges(Table):
    """Kernel stacks, sorted by start."""

    start: U64
    end: U64
    task: U64  # task_struct whose it is; 0: a CPU's
    kind: U8  # place in ``Surroundings.stack_names``
    cpu: I32 = column(fill=-1)


@table()
class ModuleRanges(Table):
    """Memory of modules, sorted by start."""

    start: U64
    end: U64
    module: I32  # row of the modules


@table()
class PerCpuRanges(Table):
    """The first chunk of per-CPU memory: a row for each CPU, sorted by start."""

    start: U64
    static: U64  # end of the variables that have symbols
    end: U64
    base: U64  # what is added to the address of a variable
    cpu: I32


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Made by :func:`read_surroundings`."""

    kernel: Kernel
    tasks: Tasks
    stacks: StackRanges
    stack_names: tuple[str, ...]
    modules: Modules
    module_memory: ModuleRanges
    per_cpu: PerCpuRanges
    image: tuple[int, int]  # first and last address of the kernel image, with its data
    current: U64  # task_struct that each CPU runs

    @cached_property
    def pointers(self) -> TypedPointers:
        """The typed pointers that lead from tasks on."""
        return follow_types(self.kernel, self.tasks)

    def stack_of(self, addresses: U64) -> I64:
        """Row of the stack that holds each address, -1 for none."""
        return covering_rows(self.stacks.start, self.stacks.end, addresses)


def read_surroundings(kernel: Kernel, tasks: Tasks) -> Surroundings:
    """Read them; what the kernel does not have is empty. ``tasks`` are all that are known."""
    modules = read_modules(kernel).modules
    unwinding = kernel.arch.unwinding(kernel, ModuleCode.zeros(0))
    queues = read_run_queues(kernel)
    get = kernel.symbols.get
    first = get("_text") or get("_stext") or kernel.arch.image_start
    last = get("_end") or first + kernel.arch.image_size
    owners = np.concatenate([tasks.task, queues.idle[queues.ok]])
    return Surroundings(
        kernel=kernel,
        tasks=tasks,
        stacks=_stacks(kernel, owners, unwinding.thread_size, unwinding.cpu_stacks(queues.base)),
        stack_names=unwinding.stack_names,
        modules=modules,
        module_memory=_module_ranges(kernel, modules),
        per_cpu=_per_cpu(kernel),
        image=(first, last),
        current=queues.curr,
    )


def _stacks(kernel: Kernel, tasks: U64, size: int, of_cpus: Table) -> StackRanges:
    """Those of tasks and of CPUs."""
    tasks = distinct(tasks[kernel.arch.kernel_pointer(tasks)])
    low, ok = kernel.gather_member("task_struct", "stack?", tasks)
    has = ok & kernel.arch.kernel_pointer(low)
    own = StackRanges.of(start=low[has], end=low[has] + np.uint64(size), task=tasks[has])
    known = of_cpus.columns()
    cpus = StackRanges.of(start=known["start"], end=known["end"], kind=known["kind"], cpu=known["cpu"])
    rows = StackRanges.concatenate([own, cpus])
    return rows.sort_by(rows.start)


def _module_ranges(kernel: Kernel, modules: Modules) -> ModuleRanges:
    """Every part of every module."""
    parts = []
    rows = np.arange(len(modules), dtype=np.int32)
    for part in module_memory(kernel, modules.module):
        some = part.start < part.end
        parts.append(ModuleRanges(start=part.start[some], end=part.end[some], module=rows[some]))
    found = ModuleRanges.concatenate(parts)
    return found.sort_by(found.start)


def _per_cpu(kernel: Kernel) -> PerCpuRanges:
    """Where the variables of each CPU lie (pcpu_setup_first_chunk, mm/percpu.c)."""
    get = kernel.symbols.get
    first, last = get("__per_cpu_start"), get("__per_cpu_end")
    offsets = per_cpu_offsets(kernel)
    if first is None or last is None or not last > first or get("__per_cpu_offset") is None:
        return PerCpuRanges.zeros(0)
    size = max(kernel.variable("pcpu_unit_size", 4) or 0, last - first)
    with np.errstate(over="ignore"):
        start = offsets + np.uint64(first)
        rows = PerCpuRanges.of(
            start=start,
            static=start + np.uint64(last - first),
            end=start + np.uint64(size),
            base=offsets,
            cpu=np.arange(len(offsets)),
        )
    rows = rows.take(rows.start < rows.end)
    return rows.sort_by(rows.start)


def owner_of(tasks: Tasks, mms: U64) -> I64:
    """Row of a task that has each mm, its leader if there is one; a task that is exiting has it as its last one."""
    found = np.full(len(mms), -1, np.int64)
    for used in (tasks.active_mm, tasks.mm):
        order = sort_order(used)
        at = rows_of(used[order], mms)
        hit = (at >= 0) & (mms != 0)
        found[hit] = order[at[hit]]
    return found
