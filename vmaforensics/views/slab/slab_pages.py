"""Slab caches of address-space objects, and the slab pages that belong to them (mm/slab.h, mm/slub.c).

Full slabs are on no list, so the pages are found by their ``struct page``: all of vmemmap is read once and the
heads of slabs whose ``slab_cache`` is one of the caches are kept. Caches may be merged; two kinds of object then
share a cache, and a cache may hold objects of no kind we know.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.image.memory import PAGE_SHIFT, PAGE_SIZE
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.pages.page_types import PageReader, bit_set, type_code
from vmaforensics.views.pages.vmemmap import vmemmap_pages
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

_OO_SHIFT = 16  # OO_SHIFT, mm/slub.c: order above, objects below
_OO_MASK = (1 << _OO_SHIFT) - 1
_LARGEST_ORDER = 10  # MAX_PAGE_ORDER on x86-64


class ObjectKind(IntEnum):
    """What the objects of a cache are."""

    VMA = 0
    MM = 1
    MAPLE_NODE = 2
    ANON_VMA = 3
    ANON_VMA_CHAIN = 4
    TASK = 5

    @property
    def struct(self) -> str:
        """The C type."""
        return ("vm_area_struct", "mm_struct", "maple_node", "anon_vma", "anon_vma_chain", "task_struct")[self]

    @property
    def symbol(self) -> str:
        """The variable that points to the cache."""
        return (
            "vm_area_cachep",
            "mm_cachep",
            "maple_node_cache",
            "anon_vma_cachep",
            "anon_vma_chain_cachep",
            "task_struct_cachep",
        )[self]


CACHES = np.dtype(
    [
        ("kind", np.uint8),  # ObjectKind
        ("cache", np.uint64),  # of the kmem_cache; merged kinds have the same
        ("size", np.uint64),  # bytes from one object to the next
        ("pad", np.uint64),  # red_left_pad: bytes before the first object
        ("offset", np.uint64),  # of the free pointer within a free object
        ("random", np.uint64),  # 0 without CONFIG_SLAB_FREELIST_HARDENED
        ("most", np.uint64),  # objects a slab can have
        ("capacity", np.uint64),  # of a sheaf; 0 for none
        ("cpu_slab", np.uint64),  # per-CPU pointers, 0 for none
        ("cpu_sheaves", np.uint64),
        ("users", np.int64),  # refcount: how many kinds of objects were merged into it
    ]
)

SLABS = np.dtype(
    [
        ("page", np.uint64),  # the struct page (struct slab) of its head
        ("base", np.uint64),  # address of the slab's memory
        ("cache", np.uint64),
        ("first", np.int64),  # row of its first object
        ("objects", np.int64),
        ("inuse", np.int64),
        ("frozen", np.bool_),  # lent to a CPU
        ("freelist", np.uint64),
    ]
)


def read_caches(kernel: Kernel, log: ProblemLog) -> NDArray[np.void]:
    """One row per kind of object that this kernel has a cache for; dtype ``CACHES``."""
    if kernel.types.struct("kmem_cache") is None or not kernel.has("kmem_cache", "oo.x"):
        kernel.identity.problems.append("no struct kmem_cache as we know it: slab objects are not looked at")
        return np.zeros(0, CACHES)
    kinds = [kind for kind in ObjectKind if kernel.types.struct(kind.struct) is not None]
    named = [(kind, kernel.symbols.get(kind.symbol)) for kind in kinds]
    known = [(kind, at) for kind, at in named if at is not None]
    missing = [kind.symbol for kind, at in named if at is None]
    if missing:
        kernel.identity.problems.append(f"no symbol {', '.join(missing)}: those slab objects are not looked at")
    where = np.array([at for _, at in known], np.uint64)
    words, ok = kernel.words(where, 1)
    pointers = words[:, 0]
    fields = (
        "size",
        "red_left_pad?",
        "offset",
        "random?",
        "oo.x",
        "refcount",
        "sheaf_capacity?",
        "cpu_slab?",
        "cpu_sheaves?",
    )
    got, fine = kernel.gather("kmem_cache", pointers, fields)
    log.add(View.SLAB, Problem.UNREADABLE, 0, where[~ok])
    log.add(View.SLAB, Problem.UNREADABLE, 0, pointers[ok & ~fine])
    names = got.dtype.names or ()
    rows = np.zeros(len(known), CACHES)
    rows["kind"] = [kind for kind, _ in known]
    rows["cache"] = pointers
    columns = {
        "size": "size",
        "pad": "red_left_pad",
        "offset": "offset",
        "random": "random",
        "users": "refcount",
        "capacity": "sheaf_capacity",
        "cpu_slab": "cpu_slab",
        "cpu_sheaves": "cpu_sheaves",
    }
    for column, name in columns.items():
        rows[column] = got[name] if name in names else 0
    order = np.minimum(got["oo.x"].astype(np.uint64) >> np.uint64(_OO_SHIFT), np.uint64(_LARGEST_ORDER))
    fits = (np.uint64(PAGE_SIZE) << order) // np.maximum(rows["size"], np.uint64(1))
    rows["most"] = np.minimum(got["oo.x"].astype(np.uint64) & np.uint64(_OO_MASK), fits)
    # A size that no such object fits into is not that of the cache.
    least = np.array([_least(kernel, kind) for kind, _ in known], np.uint64)
    sane = (rows["size"] >= least) & (rows["offset"] + np.uint64(8) <= rows["size"]) & (rows["most"] > 0)
    log.add(View.SLAB, Problem.BAD_TAG, 0, pointers[fine & ~sane], rows["size"][fine & ~sane])
    return rows[ok & fine & sane]


def _least(kernel: Kernel, kind: ObjectKind) -> int:
    """Bytes an object has at least: task_struct ends with as much FPU state as the CPU has
    (arch_task_struct_size, include/linux/sched/task.h), so less than its type says."""
    if kind is ObjectKind.TASK and kernel.has("task_struct", "thread"):
        return kernel.offset("task_struct", "thread")
    return kernel.sizeof(kind.struct)


def find_slabs(kernel: Kernel, caches: NDArray[np.void], log: ProblemLog) -> NDArray[np.void]:
    """Every slab of ``caches``; dtype ``SLABS``, sorted by base, ``first`` filled in.

    There are never more objects than the RAM has room for, whatever the struct pages claim.
    """
    found = [np.zeros(0, SLABS)]
    offset = _page_offset(kernel)
    try:
        reader = PageReader(kernel)
        struct = "slab" if kernel.has("slab", "slab_cache") else "page"
        reach = {name: kernel.offset(struct, name) for name in ("slab_cache", "freelist", "objects")}
    except KernelNotFoundError as error:
        kernel.identity.problems.append(f"{error}: slab objects are not looked at")
        return found[0]
    unread = 0
    for first, data, ok in vmemmap_pages(kernel, reader):
        unread += int((~ok).sum())
        count = data.shape[1] // reader.size
        words = data[:, : count * reader.size].reshape(-1, reader.size)
        at = reach["slab_cache"]
        owner = np.ascontiguousarray(words[:, at : at + 8]).view("<u8").reshape(-1)
        mine = np.flatnonzero(np.isin(owner, caches["cache"]))
        pfns = first[mine // count] + (mine % count).astype(np.uint64)
        with np.errstate(over="ignore"):
            pages = reader.base + pfns * np.uint64(reader.size)
        got, readable = kernel.gather(struct, pages, ("slab_cache", "freelist", "objects", "inuse", "frozen?"))
        rows, typed = reader.read(pfns)
        keep = readable & typed & _is_slab(kernel, rows)
        one = np.zeros(int(keep.sum()), SLABS)
        one["page"] = pages[keep]
        one["base"] = offset + (pfns[keep] << np.uint64(PAGE_SHIFT))
        one["cache"] = got["slab_cache"][keep]
        for column in ("objects", "inuse", "freelist"):
            one[column] = got[column][keep]
        one["frozen"] = got["frozen"][keep] if "frozen" in (got.dtype.names or ()) else 0
        found.append(one)
    if unread:
        log.add(View.SLAB, Problem.UNREADABLE, 0, int(reader.base), unread)
    return _bounded(kernel, caches, np.concatenate(found), log)


def _bounded(kernel: Kernel, caches: NDArray[np.void], slabs: NDArray[np.void], log: ProblemLog) -> NDArray[np.void]:
    slabs = slabs[np.argsort(slabs["base"], kind="stable")]
    row = cache_rows(caches, slabs["cache"])
    many = slabs["objects"] > caches["most"][row].astype(np.int64)
    log.add(View.SLAB, Problem.BAD_TAG, 0, slabs["page"][many], slabs["objects"][many].astype(np.uint64))
    slabs, row = slabs[~many], row[~many]
    bytes_ = np.cumsum(slabs["objects"].astype(np.float64) * caches["size"][row])
    ranges = kernel.memory.ranges
    fits = bytes_ <= float((ranges[:, 1] - ranges[:, 0]).sum()) if len(ranges) else np.zeros(len(slabs), np.bool_)
    if not fits.all():
        log.add(View.SLAB, Problem.CUT_SHORT, 0, slabs["page"][~fits][:1], int((~fits).sum()))
        slabs = slabs[fits]
    slabs["first"] = np.cumsum(slabs["objects"]) - slabs["objects"]
    return slabs


def cache_rows(caches: NDArray[np.void], addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The first row of ``caches`` with each kmem_cache address; every address must be there."""
    order = np.argsort(caches["cache"], kind="stable")
    found: NDArray[np.int64] = order[np.searchsorted(caches["cache"][order], addresses)]
    return found


def outside(kernel: Kernel, addresses: NDArray[np.uint64], cache: int) -> NDArray[np.bool_]:
    """Which addresses lie in a page that is none of the ``kmem_cache`` at ``cache``; False where it cannot be told.

    An object anywhere in such a page is not outside: KFENCE places single objects at odd offsets.
    """
    try:
        reader = PageReader(kernel)
        struct = "slab" if kernel.has("slab", "slab_cache") else "page"
        kernel.member(struct, "slab_cache")
    except KernelNotFoundError:
        return np.zeros(len(addresses), np.bool_)
    pas, _, mapped = kernel.space.translate(addresses)
    pfns = pas >> np.uint64(PAGE_SHIFT)
    rows, told = reader.read(pfns)
    heads = reader.heads(pfns, rows)
    rows, fine = reader.read(heads)
    with np.errstate(over="ignore"):
        got, ok = kernel.gather(struct, reader.base + heads * np.uint64(reader.size), ("slab_cache",))
    inside = _is_slab(kernel, rows) & (got["slab_cache"] == np.uint64(cache))
    answer: NDArray[np.bool_] = mapped & told & fine & ok & ~inside
    return answer


def _is_slab(kernel: Kernel, rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """PG_slab was a page flag and became a page type; only the head of a slab has it."""
    code = type_code(kernel, "slab")
    if code is not None:
        return code.matches(rows["type"])
    bit = kernel.types.constant("PG_slab")
    return bit_set(rows["flags"], bit) if bit is not None and bit < 64 else np.zeros(len(rows), np.bool_)


def _page_offset(kernel: Kernel) -> np.uint64:
    """Start of the direct map (page_offset_base; a constant without CONFIG_RANDOMIZE_MEMORY)."""
    at = kernel.symbols.get("page_offset_base")
    words, ok = kernel.words(np.array([at or 0], np.uint64), 1)
    if ok[0] and kernel_pointer(words[0])[0]:
        return np.uint64(words[0, 0])
    return np.uint64(0xFF11000000000000 if kernel.identity.levels == 5 else 0xFFFF888000000000)
