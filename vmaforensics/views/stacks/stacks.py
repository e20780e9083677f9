"""The stacks of all tasks, as a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.unwinding import ModuleCode
from vmaforensics.columns.lookup import values_at
from vmaforensics.columns.ragged import sum_by
from vmaforensics.views.stacks.bounds import Bounds
from vmaforensics.views.stacks.code import read_code
from vmaforensics.views.stacks.guess import add_guesses
from vmaforensics.views.stacks.starts import find_starts
from vmaforensics.views.stacks.unwind import unwind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.arch.registers import CpuState
    from vmaforensics.columns.texts import Texts
    from vmaforensics.columns.types import I32
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.stacks.code import Functions
    from vmaforensics.views.stacks.cpus import RunQueues
    from vmaforensics.views.stacks.frames import Frames, Stacks
    from vmaforensics.views.system.modules import Modules


@dataclass(frozen=True, slots=True, kw_only=True)
class StacksView:
    """What every task and every CPU was doing; see :func:`gather_stacks`."""

    stacks: Stacks
    frames: Frames
    functions: Functions  # that frames lie in
    names: Texts  # of each function; as the image has them
    modules: Modules
    queues: RunQueues
    states: tuple[CpuState, ...]  # registers of CPUs; ``cpu`` is the kernel's number
    state: I32  # of each stack: the place in ``states`` it begins at; -1: it begins where the task was switched away
    kinds: tuple[str, ...]  # what the kernel calls each kind of stack
    source: str  # what was gone by, in words


def gather_stacks(kernel: Kernel, tasks: Tasks, cpus: Sequence[CpuState]) -> StacksView:
    """Unwind the stack of each of ``tasks``, and of the idle task of each CPU.

    ``cpus`` is what the notes of the dump say (``Image.cpus``); registers that a crashing kernel left in memory are
    found by themselves. What cannot be unwound is a row with its reason, not a problem: stacks of a running machine
    change while it is being acquired.
    """
    code = read_code(kernel)
    modules = ModuleCode(module=code.modules.module, text=code.text.start, text_end=code.text.end)
    unwinding = kernel.arch.unwinding(kernel, modules.take(modules.text != 0))
    starts = find_starts(kernel, unwinding, tasks, cpus)
    bounds = Bounds(
        ranges=unwinding.cpu_stacks(starts.queues.base),
        low=starts.stacks.low,
        size=unwinding.thread_size,
        on_cpu=starts.on_cpu,
    )
    frames = unwind(kernel, unwinding, code, starts, bounds)
    frames = add_guesses(kernel, unwinding, code, starts, bounds, frames)
    # What a call returns to may be the next function already: one that is never returned from ends with the call.
    named = code.name(kernel, frames.ip - (~frames.precise).astype(np.uint64))
    frames.function[:] = named.row
    frames.offset[:] = (frames.ip - values_at(named.functions.start, named.row)).view(np.int64)
    stacks = starts.stacks
    stacks.count[:] = sum_by(frames.stack, np.ones(len(frames)), len(stacks))
    stacks.first[:] = np.cumsum(stacks.count) - stacks.count
    return StacksView(
        stacks=stacks,
        frames=frames,
        functions=named.functions,
        names=named.names,
        modules=code.modules,
        queues=starts.queues,
        states=starts.states,
        state=starts.state,
        kinds=unwinding.stack_names,
        source=unwinding.source,
    )
