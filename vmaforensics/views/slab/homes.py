"""Where objects of each kind live: a pointer is followed only into memory that the allocator says is of its kind.

``struct page`` of any address says whether the page belongs to a slab, and of which cache; so nothing has to be listed
before. A page is asked for once. Whether an object is *allocated* is not asked: while a machine runs, its lists of free
objects move faster than they can be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, is_in, rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U8, U16, U64, Bools
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.page_types import PageReader, bit_set
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.slab_pages import heads_table, is_slab

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_ENOUGH = 16  # objects that tell whether the account of a cache can be believed


@dataclass(frozen=True, slots=True)
class Kind:
    """Objects of one C type, and where they may lie.

    Without a symbol that this kernel has, any object of any cache will do into which the type fits.
    """

    struct: str
    symbols: tuple[str, ...] = ()  # variables that point to caches of such objects
    static: bool = False  # some are part of the kernel's image
    inner: bool = False  # they are part of larger objects


VMA = Kind("vm_area_struct", (ObjectKind.VMA.symbol,))
MM = Kind("mm_struct", (ObjectKind.MM.symbol,), static=True)  # init_mm, efi_mm
MAPLE_NODE = Kind("maple_node", (ObjectKind.MAPLE_NODE.symbol,))
ANON_VMA = Kind("anon_vma", (ObjectKind.ANON_VMA.symbol,))
ANON_VMA_CHAIN = Kind("anon_vma_chain", (ObjectKind.ANON_VMA_CHAIN.symbol,))
TASK = Kind("task_struct", (ObjectKind.TASK.symbol,), static=True)  # init_task
SIGNAL = Kind("signal_struct", static=True)  # init_signals
FILE = Kind("file")  # of more caches than one, as part of a backing_file
PID = Kind("pid", static=True)  # init_struct_pid
INODE = Kind("inode", inner=True)
ADDRESS_SPACE = Kind("address_space", inner=True)
SUPER_BLOCK = Kind("super_block")
DENTRY = Kind("dentry", ("dentry_cache", "__dentry_cache"))
MOUNT = Kind("mount", ("mnt_cache",))
PROC_ENTRY = Kind("proc_dir_entry", ("proc_dir_entry_cache",), static=True)  # proc_root
XA_NODE = Kind("xa_node", ("radix_tree_node_cachep",))


class _State(IntEnum):
    """What a page is."""

    UNKNOWN = 0  # its struct page, or the cache that names, is not in the image
    SLAB = 1
    RESERVED = 2  # of the kernel's image, or handed out before there was an allocator
    OTHER = 3


@table()
class _Pages(Table):
    """Pages that were asked for, by frame."""

    frame: U64
    state: U8  # _State
    base: U64  # address of the first byte of its slab
    cache: U64  # kmem_cache of its slab
    objects: U16  # of the slab


@table(struct="kmem_cache")
class _Caches(Table):
    """Caches that were met, by address."""

    cache: U64
    size: U64 = member("size")  # bytes from one object to the next
    pad: U64 = member("red_left_pad?")  # bytes before the first object


class Homes:
    """The allocator's account of memory, as far as walks have asked for it.

    >>> homes = kernel.shared(Homes)
    >>> homes.admits(VMA, pointers)
    """

    def __init__(self, kernel: Kernel) -> None:
        self._known = _Known.of(kernel)
        self._believed: dict[Kind, bool] = {}

    def admits(self, kind: Kind, addresses: U64) -> Bools:
        """Which of ``addresses`` can be an object of ``kind``; also where nothing is known of the page.

        A kind most of whose objects lie elsewhere is not held against its cache: the account of it is wrong then.
        """
        known = self._known
        if known is None or not len(addresses) or not self._believed.get(kind, True):
            return np.ones(len(addresses), np.bool_)
        answer = known.admits(kind, addresses)
        if kind not in self._believed and len(addresses) >= _ENOUGH:
            self._believed[kind] = 2 * int(answer.sum()) > len(addresses)
            if not self._believed[kind]:
                known.kernel.identity.problems.append(
                    f"most objects that are used as {kind.struct} lie outside the cache of such objects: "
                    "pointers to them are followed without asking the allocator"
                )
                answer[:] = True
        return answer

    def strangers(self, kind: Kind, addresses: U64) -> Bools:
        """Which of ``addresses`` lie in memory that holds something else."""
        strange: Bools = ~self.admits(kind, addresses)
        return strange


class _Known:
    """Pages and caches that were read so far."""

    def __init__(self, kernel: Kernel, reader: PageReader, reserved: int) -> None:
        self.kernel = kernel
        self._reader = reader
        self._heads = heads_table(kernel)
        self._direct_map = np.uint64(kernel.arch.direct_map(kernel.variable))
        self._reserved = reserved  # number of the bit
        self._pages = _Pages.zeros(0)
        self._caches = _Caches.zeros(0)
        self._of_kind: dict[Kind, U64] = {}

    @classmethod
    def of(cls, kernel: Kernel) -> _Known | None:
        """None where the kernel has no allocator as we know it, or says nothing of its pages."""
        try:
            reserved = kernel.types.constant("PG_reserved")
            if reserved is None or not kernel.has("kmem_cache", "oo.x"):
                return None
            reader = PageReader(kernel)
            struct = heads_table(kernel).struct
            for name in ("slab_cache", "objects"):
                kernel.member(struct, name)
        except KernelNotFoundError:
            return None
        return cls(kernel, reader, reserved)

    def admits(self, kind: Kind, addresses: U64) -> Bools:
        """See :meth:`Homes.admits`."""
        pas, _, mapped = self.kernel.space.translate(addresses)
        frames = self.kernel.arch.pages(pas)
        self._ask(distinct(frames[mapped]))
        row = np.where(mapped, rows_of(self._pages.frame, frames), -1)
        state = values_at(self._pages.state, row)
        answer: Bools = state == _State.UNKNOWN
        if kind.static:
            in_image = addresses >= np.uint64(self.kernel.arch.image_start)  # vmemmap is reserved too
            answer |= (state == _State.RESERVED) & in_image
        in_slab = np.flatnonzero(state == _State.SLAB)
        answer[in_slab] = self._fits(kind, addresses[in_slab], row[in_slab])
        return answer

    def _fits(self, kind: Kind, addresses: U64, row: I64) -> Bools:
        """Is each address that of an object of ``kind``, in the slab at its ``row`` of the pages?"""
        cache = rows_of(self._caches.cache, self._pages.cache[row])
        size = values_at(self._caches.size, cache, 1)
        objects = self._pages.objects[row].astype(np.uint64)
        with np.errstate(over="ignore"):
            offset = addresses - self._pages.base[row] - values_at(self._caches.pad, cache)
        # KFENCE has one object in a page of its own, at either end of it (mm/kfence/core.c).
        single = objects == 1
        place = np.where(single, np.uint64(0), offset % size)
        inside: Bools = single | (offset // size < objects)
        caches = self._caches_of(kind)
        if len(caches):
            inside &= (place == 0) & is_in(self._pages.cache[row], caches)
        else:
            inside &= (place == 0) | kind.inner
            inside &= place + np.uint64(self._size(kind)) <= size
        return inside

    def _size(self, kind: Kind) -> int:
        layout = self.kernel.types.struct(kind.struct)
        if layout is None:
            return 1
        # A task ends with its registers, as many as the CPU has (arch_task_struct_size): up to them it is whole.
        thread = layout.fields.get("thread") if kind.struct == "task_struct" else None
        return layout.size if thread is None else thread.offset

    def _caches_of(self, kind: Kind) -> U64:
        """The caches that the symbols of ``kind`` lead to."""
        if kind not in self._of_kind:
            places = [at for name in kind.symbols if (at := self.kernel.symbols.get(name)) is not None]
            words, ok = self.kernel.words(np.array(places, np.uint64), 1)
            self._of_kind[kind] = words[ok & self.kernel.arch.kernel_pointer(words[:, 0]), 0]
        return self._of_kind[kind]

    def _ask(self, frames: U64) -> None:
        """Read those of ``frames`` (ascending, each once) that nobody has asked for."""
        frames = frames[rows_of(self._pages.frame, frames) < 0]
        if not len(frames):
            return
        reader = self._reader
        rows, ok = reader.read(frames)
        heads = np.where(ok, reader.heads(frames, rows), frames)
        if (heads != frames).any():
            rows, heads_ok = reader.read(heads)
            ok &= heads_ok
        fresh = _Pages.of(frame=frames, state=np.full(len(frames), _State.OTHER, np.uint8))
        fresh.state[bit_set(rows.flags, self._reserved)] = _State.RESERVED
        fresh.state[~ok] = _State.UNKNOWN
        slab = np.flatnonzero(ok & is_slab(self.kernel, rows))
        head, read = self.kernel.gather(self._heads, reader.addresses(heads[slab]))
        self._meet(head.cache[read])
        known = read & (rows_of(self._caches.cache, head.cache) >= 0)
        fresh.state[slab] = np.where(known, _State.SLAB, _State.UNKNOWN)
        fresh.base[slab] = self._direct_map + self.kernel.arch.bytes_of(heads[slab])
        fresh.cache[slab], fresh.objects[slab] = head.cache, head.objects
        pages = _Pages.concatenate([self._pages, fresh])
        self._pages = pages.sort_by(pages.frame)

    def _meet(self, caches: U64) -> None:
        """Read those of ``caches`` that were not met before."""
        new = distinct(caches[self.kernel.arch.kernel_pointer(caches) & (rows_of(self._caches.cache, caches) < 0)])
        if not len(new):
            return
        rows, ok = self.kernel.gather(_Caches, new)
        rows.cache[:] = new
        met = _Caches.concatenate([self._caches, rows.take(ok & (rows.size > 0))])
        self._caches = met.sort_by(met.cache)
