"""All views of an image, in the order in which they need each other."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.errors import KernelNotFoundError, MemoryReadError
from vmaforensics.progress import unheard
from vmaforensics.views.anchors.anchors import gather_anchors
from vmaforensics.views.clocks.clocks import gather_clocks
from vmaforensics.views.descriptors.handles import gather_handles
from vmaforensics.views.descriptors.holders import HeldFrames
from vmaforensics.views.descriptors.userfaults import read_monitored
from vmaforensics.views.frames.frames import gather_frames
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.indices.maple import walk_maple
from vmaforensics.views.indices.rbtree import walk_rbtree
from vmaforensics.views.indices.vma_list import walk_list
from vmaforensics.views.operations.operations import gather_operations
from vmaforensics.views.pages.kernel_half import gather_kernel_half
from vmaforensics.views.pages.page_tables import gather_page_tables
from vmaforensics.views.pages.swap_slots import gather_swap
from vmaforensics.views.pages.table_roots import read_table_roots
from vmaforensics.views.pages.text_pages import gather_text_pages
from vmaforensics.views.pages.unacquired import drop_unacquired
from vmaforensics.views.pages.vdso import gather_vdso
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.essentials import read_essentials
from vmaforensics.views.processes.kin import read_kin
from vmaforensics.views.processes.mm_sources import gather_sources, with_indexed
from vmaforensics.views.processes.mms import MmOffsets, Mms, read_mms
from vmaforensics.views.processes.pid_numbers import read_pid_numbers
from vmaforensics.views.processes.taskless_mms import taskless_mms
from vmaforensics.views.processes.tasks import walk_tasks
from vmaforensics.views.processes.tracers import read_tracers
from vmaforensics.views.reverse_maps.reverse_maps import gather_rmap
from vmaforensics.views.road.road import gather_road
from vmaforensics.views.slab.objects import gather_slab
from vmaforensics.views.slab.strays import find_strays
from vmaforensics.views.slab.torn_slabs import torn_slabs
from vmaforensics.views.view import View
from vmaforensics.views.views import Views
from vmaforensics.views.vmas.files import read_files
from vmaforensics.views.vmas.identities import read_identities
from vmaforensics.views.vmas.names import vma_names
from vmaforensics.views.vmas.paths import reader_root
from vmaforensics.views.vmas.vmas import classify, read_vmas

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from vmaforensics.arch.registers import CpuState
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.reference import ReferenceKernel
    from vmaforensics.progress import Progress
    from vmaforensics.views.operations.operations import OperationsView
    from vmaforensics.views.vmas.files import FileTable

T = TypeVar("T")

log = logging.getLogger(__name__)

# Views beyond the indices, the VMAs and the counters, by the names the command line uses.
EXTRA = ("slab", "sources", "anchors", "handles", "page-tables", "text", "rmap", "frames", "code", "patched")

_GUARD_PAGES = 256


def gather_views(
    kernel: Kernel,
    cpus: tuple[CpuState, ...] = (),
    wanted: Collection[str] = EXTRA,
    progress: Progress = unheard,
    *,
    reference: ReferenceKernel | None = None,
) -> Views:
    """Read every record of every process's memory map that this version knows of.

    ``cpus`` is what the image says of the state of each CPU; ``wanted`` picks among :data:`EXTRA`; where the task list
    is broken, the sources are read anyway. A view whose structures this kernel does not have as we know them is left
    out, and ``identity.problems`` says so. ``reference`` is what the kernel's code is compared with. ``progress`` is
    called with the name of each stage as it begins.

    Raises :class:`KernelNotFoundError` if the kernel has no task list to begin with; anything else that
    cannot be read is a row of ``problems``.
    """
    log = ProblemLog()
    drop_unacquired(kernel)
    progress("tasks")
    tasks = walk_tasks(kernel, log)
    if log.met(View.TASKS):  # what the list no longer leads to, the index of pids does
        wanted = {*wanted, "sources"}
    views = Views(
        arch=kernel.arch,
        tasks=tasks,
        mms=mms if (mms := _typed(kernel, "mm_struct", lambda: read_mms(kernel, tasks, log))) else Mms.zeros(0),
        mm_offsets=MmOffsets.of(kernel),
        vma_size=_typed(kernel, "vm_area_struct", lambda: kernel.sizeof("vm_area_struct")) or 0,
        stack_guard_gap=_stack_guard_gap(kernel),
        shadow_stack_flag=kernel.arch.shadow_stack_flag(kernel),
    )
    extra = _Extra(kernel, wanted, progress)
    views.slab = extra.get("slab", lambda: gather_slab(kernel, log))
    views.sources = extra.get("sources", lambda: gather_sources(kernel, tasks, views.slab, log))
    if views.sources is not None:
        if log.met(View.TASKS):
            views.tasks = with_indexed(tasks, views.sources)
        # An address space that no listed process has is read like any other.
        mms = Mms.concatenate([views.mms, views.sources.hidden()])
        views.mms = mms.sort_by(mms.mm)
        views.taskless = taskless_mms(views.sources, views.mms)
        views.operations = _operations(kernel, views, cpus, extra)
        all_tasks = views.sources.tasks
        views.pid_numbers = extra.get("sources", lambda: read_pid_numbers(kernel, all_tasks))
        views.essentials = extra.get("sources", lambda: read_essentials(kernel, all_tasks))
    every = views.sources.tasks if views.sources is not None else tasks
    views.clocks = extra.always("clocks", lambda: gather_clocks(kernel, every, views.slab))
    views.tracers = extra.get("sources", lambda: read_tracers(kernel, views.tasks))
    if views.sources is not None:
        copies = np.zeros(0, np.uint64) if views.operations is None else views.operations.copies
        coming = distinct(np.concatenate([copies, every.task[views.sources.unlisted_yet()]]))
        views.kin, views.shared = extra.get(
            "sources", lambda: read_kin(kernel, every, views.tasks.task, copies, coming)
        ) or (None, None)
    progress("indices")
    _walk_indices(kernel, views, log)
    progress("areas")
    _read_vmas(kernel, views, log)
    progress("files")
    files = _read_files(kernel, views, log)
    views.identities = extra.always("identities", lambda: read_identities(kernel, files.rows))
    _gather_witnesses(kernel, views, cpus, extra, log, reference)
    views.problems = log.table()
    if (slab := views.slab) is not None:
        views.torn_slabs = extra.get("slab", lambda: torn_slabs(kernel, slab.partial, views.problems))
    if kernel.untyped:
        views.untyped = tuple(kernel.untyped)
        kernel.identity.problems.append(
            f"damaged types do not say where {', '.join(views.untyped[:4])} lies; what is found may come of it and is "
            "told at info: give a symbol file of this kernel with --symbols"
        )
    return views


def _operations(kernel: Kernel, views: Views, cpus: tuple[CpuState, ...], extra: _Extra) -> OperationsView | None:
    """What tasks were in the middle of."""
    sources, mms = views.sources, views.mms
    assert sources is not None
    return extra.get("sources", lambda: gather_operations(kernel, sources, mms, cpus))


def _walk_indices(kernel: Kernel, views: Views, log: ProblemLog) -> None:
    """The indices that this kernel has, not yet with the VMAs they lead to."""
    if (rbtree := _typed(kernel, "the red-black tree", lambda: walk_rbtree(kernel, views.mms, log))) is not None:
        views.rbtree, views.rb_nodes = rbtree
    hint = views.rbtree.vma if views.rbtree is not None else np.zeros(0, np.uint64)
    views.vma_list = _typed(kernel, "the vm_next list", lambda: walk_list(kernel, views.mms, hint, log))
    if (maple := _typed(kernel, "the maple tree", lambda: walk_maple(kernel, views.mms, log))) is not None:
        views.maple, views.maple_nodes = maple
    if not views.indices():  # there is one, and nothing of it could be read
        kernel.untyped["the index of the VMAs"] = None
        views.maple = IndexEntries.zeros(0)


def _typed(kernel: Kernel, name: str, walk: Callable[[], T | None]) -> T | None:
    """What ``walk`` finds; None where damaged types do not say where what it needs lies."""
    try:
        return walk()
    except KernelNotFoundError:
        if not kernel.types_damaged:
            raise
        kernel.untyped[name] = None
        return None


def _read_vmas(kernel: Kernel, views: Views, log: ProblemLog) -> None:
    """Every VMA that an index leads to; the rows of the indices that lead there."""
    indices = views.indices().values()
    views.vmas = read_vmas(kernel, np.concatenate([np.zeros(0, np.uint64), *(index.vma for index in indices)]), log)
    for index in indices:
        index.vma_row[:] = views.vma_rows(index.vma)
    for bare in (views.vma_list, views.rbtree):
        if bare is not None:  # it has no bounds of its own: those of the VMA are its
            bare.start[:], bare.end[:] = views.vmas.start[bare.vma_row], views.vmas.end[bare.vma_row]


def _read_files(kernel: Kernel, views: Views, log: ProblemLog) -> FileTable:
    """The files of VMAs and processes, and what they make of the VMAs: their kinds and names."""
    used = np.concatenate([views.vmas.file, views.mms.exe_file])
    files = views.files = read_files(kernel, used, reader_root(kernel, views.tasks), log)
    classify(kernel, views.vmas, files)
    views.names = vma_names(kernel, views.vmas, views.mms, files)
    return files


def _gather_witnesses(
    kernel: Kernel,
    views: Views,
    cpus: tuple[CpuState, ...],
    extra: _Extra,
    log: ProblemLog,
    reference: ReferenceKernel | None,
) -> None:
    """The views that are held against the indices. Each takes the tables it needs, and none this whole bag."""
    tasks, mms, vmas, files, union = views.tasks, views.mms, views.vmas, views.files, views.union
    assert files is not None
    if (slab := views.slab) is not None:
        views.strays = extra.get("slab", lambda: find_strays(kernel, slab, vmas, mms, tasks, log))
    views.anchors = extra.get("anchors", lambda: gather_anchors(kernel, tasks, mms, cpus, log))
    views.handles = extra.get("handles", lambda: gather_handles(kernel, tasks, log))
    if (handles := views.handles) is not None:
        views.monitored = extra.get("handles", lambda: read_monitored(kernel, handles, vmas, tasks))
    tasks_whole = bool(tasks.ok.all()) and not log.met(View.TASKS)
    every = views.sources.tasks if views.sources is not None else tasks
    if views.operations is not None:
        every = every.take(~np.isin(every.task, views.operations.copies))
    taskless = views.taskless.mapping() if views.taskless is not None else None
    page_tables = views.page_tables = extra.get(
        "page-tables",
        lambda: gather_page_tables(kernel, every, mms, vmas, union, log, tasks_whole=tasks_whole, taskless=taskless),
    )
    if page_tables is not None and len(files.rows):
        views.text = extra.get("text", lambda: gather_text_pages(kernel, tasks, vmas, files.rows, page_tables, log))
    if page_tables is not None:
        views.table_roots = extra.always("table-roots", lambda: read_table_roots(kernel, mms))
        every_mm = Mms.concatenate([mms] if taskless is None else [mms, taskless])
        views.kernel_half = extra.always("kernel-half", lambda: gather_kernel_half(kernel, every_mm, log))
        views.vdso = extra.always("vdso", lambda: gather_vdso(kernel, every, mms, vmas, page_tables))
    views.rmap = extra.get("rmap", lambda: gather_rmap(kernel, tasks, mms, vmas, files, log))
    if page_tables is not None:
        held = views.handles.held if views.handles is not None else HeldFrames.zeros(0)
        frames = views.frames = extra.get("frames", lambda: gather_frames(kernel, page_tables, held, every.task))
        if frames is not None:
            views.swap = extra.always("swap", lambda: gather_swap(kernel, page_tables, frames.kinds))
    opened = views.handles.descriptors.file if views.handles is not None else np.zeros(0, np.uint64)
    patched = "patched" in extra.wanted
    views.road = extra.get(
        "code",
        lambda: gather_road(
            kernel, distinct(opened), vmas, files.rows, cpus=cpus, patched=patched, reference=reference
        ),
    )


class _Extra:
    """Gathers views one may do without: a kernel that lacks a structure costs the one view that needs it."""

    def __init__(self, kernel: Kernel, wanted: Collection[str], progress: Progress) -> None:
        self._progress = progress
        self._problems = kernel.identity.problems
        self.wanted = wanted

    def get(self, name: str, gather: Callable[[], T]) -> T | None:
        """The view, or None if it is not wanted or not available."""
        return self.always(name, gather) if name in self.wanted else None

    def always(self, name: str, gather: Callable[[], T]) -> T | None:
        """A view that nobody has to ask for, or None if it is not available."""
        self._progress(name)
        try:
            return gather()
        except (KernelNotFoundError, MemoryReadError) as error:
            self._problems.append(f"the view {name} is not available: {error}")
            return None
        except Exception as error:  # a bug of ours must not cost the other views
            log.debug("view %s", name, exc_info=True)
            kind = type(error).__name__
            self._problems.append(f"internal error in the view {name} ({kind}: {error}); please report it")
            return None


def _stack_guard_gap(kernel: Kernel) -> int:
    """Bytes kept free below a stack (mm/mmap.c): the kernel's variable, or what it is without stack_guard_gap=."""
    at = kernel.symbols.get("stack_guard_gap")
    words, ok = kernel.words(np.array([at or 0], np.uint64), 1)
    return int(words[0, 0]) if ok[0] else _GUARD_PAGES << kernel.arch.page_shift
