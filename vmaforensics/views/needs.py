"""Which members of the kernel's structures each view needs: told from types alone, without an image.

A view can be had in one of several ways (a kernel has ``struct slab`` or keeps the same words in ``struct page``).
A way is written in words: ``chapter/module`` stands for the members that the tables of that module must have,
``chapter/module:Name`` for those of one of its tables, and ``struct.path`` for one more that is asked for by itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, NamedTuple

from vmaforensics.columns.table import Table, columns_of
from vmaforensics.kernel.structures.layout import member
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.structures.layout import Types

_NODES: Final = (
    "maple_range_64.slot maple_range_64.pivot maple_range_64.meta.end "
    "maple_arange_64.slot maple_arange_64.pivot maple_arange_64.gap maple_arange_64.meta.end"
)
_SLAB_CPU: Final = "slab/caches slab/free_objects kmem_cache.cpu_slab"
_SLAB_SHEAVES: Final = (
    "slab/caches slab/sheaves kmem_cache.cpu_sheaves slab_sheaf.objects slab_sheaf.size node_barn.sheaves_full"
)

# Views by the names that reports use, and what a crash case is told by. The first are what a report cannot do without.
_WAYS: Final[dict[str, tuple[str, ...]]] = {
    View.TASKS.label: ("processes/tasks task_struct.tasks.next task_struct.thread_node signal_struct.thread_head",),
    View.COUNTERS.label: ("processes/mms",),
    View.VMA.label: ("vmas/vmas",),
    View.MAPLE.label: (f"mm_struct.mm_mt.ma_root maple_range_64.parent {_NODES}",),
    View.LIST.label: ("mm_struct.mmap vm_area_struct.vm_next",),
    View.RBTREE.label: ("mm_struct.mm_rb.rb_node indices/rbtree",),
    View.FILES.label: ("vmas/files vmas/paths",),
    View.PAGE_TABLES.label: ("mm_struct.pgd",),
    View.PAGES.label: ("pages/page_types",),
    "resident pages": (
        "mm_struct.rss_stat.counters",
        "mm_struct.rss_stat.count",
        "pages/rss:_Counters mm_struct.rss_stat",
    ),
    View.FILE_RMAP.label: (
        "structures/interval_tree:_FileWords reverse_maps/mappings address_space.i_mmap.rb_root.rb_node",
    ),
    View.ANON_RMAP.label: (
        "structures/interval_tree:_AnonWords reverse_maps/anon_vma_chains vm_area_struct.anon_vma_chain",
    ),
    View.SLAB.label: (
        f"slab/slab_pages:_Heads {_SLAB_CPU}",
        f"slab/slab_pages:_Heads {_SLAB_SHEAVES}",
        f"slab/slab_pages:_OldHeads {_SLAB_CPU}",
    ),
    View.ANCHORS.label: (
        "anchors/registers mm_struct.saved_auxv task_struct.sighand sighand_struct.action k_sigaction.sa.sa_handler",
    ),
    View.HANDLES.label: ("descriptors/descriptors descriptors/memory_files task_struct.files files_struct.fdt",),
    "index of pids": ("pid_namespace.idr.idr_rt.xa_head pid.tasks task_struct.pid_links xa_node.slots xa_node.shift",),
    "System V segments": ("descriptors/sysv nsproxy.ipc_ns ipc_namespace.ids ipc_ids.ipcs_idr.idr_rt.xa_head",),
    "log": ("log/ring_buffer", "log/log_buf:_Records", "log/log_buf:_OldRecords"),
    "modules": ("system/modules module.list",),
    "stacks": ("stacks/starts",),
    "locks": ("mm_struct.mmap_lock|mmap_sem rw_semaphore.count.counter|rwbase.readers.counter",),
}
NEEDED: Final = (View.TASKS.label, View.COUNTERS.label, View.VMA.label)
INDICES: Final = (View.MAPLE.label, View.LIST.label, View.RBTREE.label)


class Member(NamedTuple):
    """A member that has to be there; of ``a|b`` one of both."""

    struct: str
    path: str

    @property
    def text(self) -> str:
        """As people write it: ``mm_struct.map_count or vma_count``."""
        return f"{self.struct}.{self.path.replace('|', ' or ')}"


class Available(NamedTuple):
    """Can a view be had?"""

    view: str
    lacks: tuple[str, ...]  # what is missing for the way that lacks least; empty: it can be had


def needs() -> dict[str, list[list[Member]]]:
    """The members of each way to each view, each once."""
    return {view: [list(dict.fromkeys(_members(way))) for way in ways] for view, ways in _WAYS.items()}


def available(types: Types) -> list[Available]:
    """Which views a kernel with these types would give."""
    found = []
    for view, ways in needs().items():
        lacking = [tuple(_lacking(types, way)) for way in ways]
        found.append(Available(view, min(lacking, key=len)))
    return found


def _lacking(types: Types, way: list[Member]) -> Iterator[str]:
    """What is not there; a structure that is unknown is named once."""
    unknown = {need.struct for need in way if types.struct(need.struct) is None}
    yield from (f"struct {name}" for name in sorted(unknown))
    for need in way:
        if need.struct not in unknown and not any(member(types, need.struct, path) for path in need.path.split("|")):
            yield need.text


def _members(way: str) -> Iterator[Member]:
    for word in way.split():
        if "/" not in word:
            yield Member(*word.split(".", 1))
            continue
        for found in _tables(word):
            for column in columns_of(found).values():
                if column.path and not column.path.endswith("?"):
                    yield Member(found.struct, column.path)


def _tables(word: str) -> list[type[Table]]:
    """The tables that a word of a way stands for."""
    path, _, name = word.partition(":")
    module = importlib.import_module(f"vmaforensics.views.{path.replace('/', '.')}")
    tables = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Table) and value.struct and value.__module__ == module.__name__
    ]
    return [found for found in tables if not name or found.__name__ == name]
