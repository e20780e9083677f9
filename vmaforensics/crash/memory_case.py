"""What is read of an image to say where its memory went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.memory.figures import Figures, read_figures
from vmaforensics.views.memory.slab_caches import read_slab_use
from vmaforensics.views.memory.tmpfs import read_shmem_use
from vmaforensics.views.memory.vmalloc import read_vmalloc_use
from vmaforensics.views.pages.rss import read_rss
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.mms import read_mms

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.memory.slab_caches import SlabUse
    from vmaforensics.views.memory.tmpfs import ShmemUse
    from vmaforensics.views.memory.vmalloc import VmallocUse
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks

_T = TypeVar("_T")
MOST = 20  # of each list


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCase:
    """None: this kernel does not have it, or its structures are not known."""

    figures: Figures
    mms: Mms | None
    rss: I64 | None  # pages of each mm, by rss.KINDS
    rss_ok: Bools | None
    slabs: SlabUse | None
    shmem: ShmemUse | None
    vmalloc: VmallocUse | None


NOT_READ = MemoryCase(
    figures=Figures([], ["all of them"]), mms=None, rss=None, rss_ok=None, slabs=None, shmem=None, vmalloc=None
)


def read_memory_case(kernel: Kernel, tasks: Tasks | None) -> MemoryCase:
    """All of it; ``tasks`` are those that are known."""
    processes = None if tasks is None else _if_known(lambda: _processes(kernel, tasks))
    return MemoryCase(
        figures=_if_known(lambda: read_figures(kernel)) or Figures([], ["all of them"]),
        mms=None if processes is None else processes[0],
        rss=None if processes is None else processes[1],
        rss_ok=None if processes is None else processes[2],
        slabs=_if_known(lambda: read_slab_use(kernel)),
        shmem=_if_known(lambda: read_shmem_use(kernel, MOST)),
        vmalloc=_if_known(lambda: read_vmalloc_use(kernel)),
    )


def _if_known(read: Callable[[], _T]) -> _T | None:
    """What ``read`` gives; None where this kernel lacks a member that it needs."""
    try:
        return read()
    except KernelNotFoundError:
        return None


def _processes(kernel: Kernel, tasks: Tasks) -> tuple[Mms, I64, Bools]:
    """The address spaces and what they have in memory."""
    mms = read_mms(kernel, tasks, ProblemLog())
    return mms, *read_rss(kernel, mms, tasks, tasks_whole=bool(np.all(tasks.ok)))
