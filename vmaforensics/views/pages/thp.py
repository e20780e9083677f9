"""May an area have transparent huge pages? The ``THPeligible`` line of smaps.

transparent_hugepage_enabled (mm/huge_memory.c, 5.10), hugepage_vma_check (6.1), thp_vma_allowable_orders (6.8
and later), shmem_is_huge (mm/shmem.c). What the kernel has decides, not its version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

_PMD_ORDER = 9
_ANON_ORDERS = (1 << (_PMD_ORDER + 1)) - 1 & ~0b11  # THP_ORDERS_ALL_ANON: there are none of 1 or 2 pages
_DISABLE_THP = 24  # MMF_DISABLE_THP, include/linux/sched/coredump.h (later mm_types.h)
_TMPFS_MAGIC = 0x01021994  # include/uapi/linux/magic.h
_ALWAYS, _WITHIN_SIZE, _ADVISE = 1, 2, 3  # SHMEM_HUGE_*, mm/shmem.c
_DENY, _FORCE = -1, -2


def thp_eligible(kernel: Kernel, views: Views, vmas: NDArray[np.void]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """``(eligible, known)``: which of ``vmas`` the kernel calls eligible, and of which that could be told.

    Compared with guests whose settings were ``madvise``, with and without a tmpfs mounted with ``huge=``.
    Not known here: files of direct-access (DAX) devices, and CONFIG_READ_ONLY_THP_FOR_FS; areas of files
    outside shared memory are never eligible.
    """
    eligible, known = np.zeros(len(vmas), np.bool_), vmas["ok"].copy()
    words = _Words(kernel)
    mode = words.get("transparent_hugepage_flags")
    bits = [kernel.types.constant(f"TRANSPARENT_HUGEPAGE_{name}") for name in ("FLAG", "REQ_MADV_FLAG")]
    off = [kernel.types.constant(f"TRANSPARENT_HUGEPAGE_{name}") for name in ("UNSUPPORTED", "NEVER_DAX")]
    if mode is None or bits[0] is None or bits[1] is None or any(bit is not None and mode >> bit & 1 for bit in off):
        return eligible, known & (not words.unread)
    always, enabled = bool(mode >> bits[0] & 1), bool(mode & (1 << bits[0] | 1 << bits[1]))
    flag = vmas["flags"]
    advised = (flag & np.uint64(flags.VM_HUGEPAGE)) != 0
    disabled, read = _disabled(kernel, vmas["mm"])
    usable = vmas["ok"] & ((flag & np.uint64(flags.VM_NOHUGEPAGE)) == 0) & ~disabled

    early = np.uint64(flags.VM_GROWSDOWN | flags.VM_SEQ_READ | flags.VM_RAND_READ)  # vma_is_temporary_stack
    anonymous = usable & (vmas["ops"] == 0) & ((flag & early) != early)
    orders = _orders(words, "huge_anon_orders", advised, always | (enabled & advised)) & np.uint64(_ANON_ORDERS)
    for order in range(_PMD_ORDER + 1):
        eligible |= anonymous & ((orders >> np.uint64(order) & np.uint64(1)) != 0) & _fits(vmas, order)

    shared, huge, told = _shmem(kernel, views, vmas, advised, words)
    aligned = ((vmas["start"] >> np.uint64(12)) - vmas["pgoff"]) % np.uint64(1 << _PMD_ORDER) == 0
    own = kernel.symbols.get("shmem_anon_vm_ops")
    if own is not None and kernel.symbols.get("huge_shmem_orders_inherit") is not None:
        allowed = _orders(words, "huge_shmem_orders", advised, huge) != 0
        huge = np.where(vmas["ops"] == np.uint64(own), allowed, huge)
    room = usable & aligned & _fits(vmas, _PMD_ORDER)
    eligible |= shared & huge & room
    return eligible, known & read & (told | ~room | (vmas["ops"] == 0)) & (not words.unread)


class _Words:
    """Settings by symbol. ``unread``: one that the kernel has is not in the image."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.unread = False

    def get(self, name: str, size: int = 8) -> int | None:
        """The number, None where the kernel has no such setting or it could not be read."""
        at = self._kernel.symbols.get(name)
        if at is None:
            return None
        data, ok = self._kernel.space.gather(np.array([at], np.uint64), size)
        self.unread |= not ok[0]
        return int.from_bytes(data.tobytes(), "little") if ok[0] else None


def _orders(
    settings: _Words, name: str, advised: NDArray[np.bool_], inherited: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """Sizes of huge pages that settings allow, as bits; before there were several sizes (6.8) that of a PMD."""
    default = 1 << _PMD_ORDER
    words = [settings.get(f"{name}_{one}") for one in ("always", "madvise", "inherit")]
    if words[2] is None:
        words = [0, 0, default]
    own, madvise, inherit = (np.uint64(word or 0) for word in words)
    zero = np.uint64(0)
    allowed: NDArray[np.uint64] = own | np.where(advised, madvise, zero) | np.where(inherited, inherit, zero)
    return allowed


def _fits(vmas: NDArray[np.void], order: int) -> NDArray[np.bool_]:
    """thp_vma_suitable_order: is there an aligned piece of that size in the area?"""
    size = np.uint64(4096 << order)
    last = vmas["end"] // size * size
    fits: NDArray[np.bool_] = (last >= size) & (last - np.minimum(last, size) >= vmas["start"])
    return fits


def _disabled(kernel: Kernel, mms: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(prctl(PR_SET_THP_DISABLE), could be read) of each mm; the gate area has no mm and no huge pages."""
    known, inverse = np.unique(mms, return_inverse=True)
    got, ok = kernel.gather("mm_struct", known, ["flags.__mm_flags|flags"])
    word = got["flags.__mm_flags"].reshape(len(known), -1)[:, 0].astype(np.uint64)
    off = ((word >> np.uint64(_DISABLE_THP) & np.uint64(1)) != 0) | (known == 0)
    return off[inverse], (ok | (known == 0))[inverse]


def _shmem(
    kernel: Kernel, views: Views, vmas: NDArray[np.void], advised: NDArray[np.bool_], words: _Words
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """(is it shared memory, does its mount or the system want huge pages there, could be told) of each area."""
    none, all_ = np.zeros(len(vmas), np.bool_), np.ones(len(vmas), np.bool_)
    members = ("super_block", "s_fs_info"), ("shmem_sb_info", "huge")
    if views.files is None or not len(views.files.rows) or not all(kernel.has(*one) for one in members):
        return none, none, all_
    at = np.flatnonzero(vmas["ok"] & (vmas["file_row"] >= 0) & (vmas["ops"] != 0))
    files = views.files.rows[vmas["file_row"][at]]
    host, ok = kernel.gather("address_space", files["mapping"], ["host"])
    inode, fine = kernel.gather("inode", host["host"], ["i_sb", "i_size"])
    sb, read = kernel.gather("super_block", inode["i_sb"], ["s_magic", "s_fs_info"])
    info, told = kernel.gather("shmem_sb_info", sb["s_fs_info"], ["huge"])
    tmpfs = (sb["s_magic"] == _TMPFS_MAGIC) & files["regular"]
    shared, known = none.copy(), all_.copy()
    shared[at] = ok & fine & read & tmpfs
    known[at] = ok & fine & read & (told | ~tmpfs)
    word = words.get("shmem_huge", 4) or 0
    system = word - (1 << 32) if word >> 31 else word
    if system in (_DENY, _FORCE):
        return shared, np.full(len(vmas), system == _FORCE), known
    pages = (inode["i_size"].astype(np.uint64) + np.uint64(4095)) >> np.uint64(12)
    step = np.uint64(1 << _PMD_ORDER)
    within = pages >= (vmas["pgoff"][at] // step + np.uint64(1)) * step
    mount = info["huge"]
    wanted = (mount == _ALWAYS) | (mount == _WITHIN_SIZE) & within
    huge = none.copy()
    huge[at] = wanted | advised[at] & np.isin(mount, (_WITHIN_SIZE, _ADVISE))
    return shared, huge, known
