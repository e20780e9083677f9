"""All clocks of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.clocks.bases import read_bases
from vmaforensics.views.clocks.kernel_clocks import kernel_clocks
from vmaforensics.views.clocks.samples import TimeSamples
from vmaforensics.views.clocks.task_clocks import task_clocks, task_times
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State
from vmaforensics.views.system.ending import panic_cpu

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.clocks.bases import TimeBases
    from vmaforensics.views.clocks.task_clocks import TaskTimes
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.slab.objects import SlabView


@dataclass(frozen=True, slots=True, kw_only=True)
class ClocksView:
    """The times that were found; see :func:`gather_clocks`."""

    bases: TimeBases
    samples: TimeSamples  # sorted by address
    tasks: TaskTimes  # sorted by task
    panicked: bool  # it has stopped for good, so that no clock moves, though some may have stopped before others
    places: Places


def gather_clocks(kernel: Kernel, tasks: Tasks, slab: SlabView | None) -> ClocksView | None:
    """Every clock that this kernel has; None where its timekeeper cannot be read, so that no time can be converted.

    What a torn list led to that is no task of the slab has no times either.
    """
    bases = read_bases(kernel)
    if bases is None:
        return None
    if slab is not None and bool((slab.caches.kind == ObjectKind.TASK).any()):
        tasks = tasks.take(slab.states(tasks.task, ObjectKind.TASK) != State.ABSENT)
    samples = TimeSamples.concatenate([kernel_clocks(kernel, bases), task_clocks(kernel, bases, tasks)])
    return ClocksView(
        bases=bases,
        samples=samples.sort_by(samples.pa, samples.time),
        tasks=task_times(kernel, bases, tasks),
        panicked=_panicked(kernel),
        places=Places(kernel),
    )


def _panicked(kernel: Kernel) -> bool:
    """``panic_cpu`` is the CPU that has called panic (kernel/panic.c); crash_save_vmcoreinfo notes a CRASHTIME."""
    crashed = kernel.vmcoreinfo is not None and "CRASHTIME" in kernel.vmcoreinfo.values
    return crashed or panic_cpu(kernel) not in (None, -1)


class Places:
    """Where in physical memory the records lie that findings name."""

    def __init__(self, kernel: Kernel) -> None:
        self.ranges: list[tuple[int, int]] = [(start, end) for start, end in kernel.memory.ranges.tolist()]
        self.page_size = kernel.arch.page_size
        self._space, self._arch = kernel.space, kernel.arch
        size = kernel.sizeof("page") if kernel.types.struct("page") is not None else 0
        self._pages, self._page = kernel.arch.vmemmap(kernel.variable) if size else None, size

    def of(self, addresses: U64) -> U64:
        """Physical addresses of the words at kernel addresses; those that nothing maps are left out."""
        where = self._space.translate(addresses[self._arch.kernel_pointer(addresses)])
        return where.pa[where.mapped]

    def each(self, addresses: U64) -> U64:
        """The physical address of the word at each kernel address; the highest there is where nothing maps it."""
        where = self._space.translate(addresses)
        return np.where(where.mapped, where.pa, np.uint64((1 << 64) - 1))

    def of_frames(self, frames: U64) -> U64:
        """Physical addresses of the struct pages of the frames at physical addresses ``frames``."""
        return self.of(self._struct_pages(frames))

    def each_frame(self, frames: U64) -> U64:
        """The same for each frame, as :meth:`each`."""
        at = self._struct_pages(frames)
        return self.each(at) if len(at) else np.full(len(frames), (1 << 64) - 1, np.uint64)

    def _struct_pages(self, frames: U64) -> U64:
        if self._pages is None:
            return np.zeros(0, np.uint64)
        number = frames >> np.uint64(self._arch.page_shift)
        return np.uint64(self._pages) + number * np.uint64(self._page)
