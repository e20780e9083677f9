"""May a VMA have transparent huge pages? The ``THPeligible`` line of smaps.

transparent_hugepage_enabled (mm/huge_memory.c, 5.10), hugepage_vma_check (6.1), thp_vma_allowable_orders (6.8
and later), shmem_is_huge (mm/shmem.c). What the kernel has decides, not its version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U8, U64
from vmaforensics.views.pages.thp_files import takes_huge_folios
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.columns.types import Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.vmas.files import Files
    from vmaforensics.views.vmas.vmas import Vmas

_DISABLE_THP = 24  # MMF_DISABLE_THP, include/linux/sched/coredump.h (later mm_types.h)
_TMPFS_MAGIC = 0x01021994  # include/uapi/linux/magic.h
_ALWAYS, _WITHIN_SIZE, _ADVISE = 1, 2, 3  # SHMEM_HUGE_*, mm/shmem.c
_DENY, _FORCE = -1, -2


class ThpEligible(NamedTuple):
    """What :func:`thp_eligible` says of VMAs, in their order."""

    eligible: Bools
    known: Bools  # False where what decides it is not in the image


def thp_eligible(kernel: Kernel, files: Files, vmas: Vmas) -> ThpEligible:
    """Which of ``vmas`` the kernel calls eligible; ``files`` is the table their ``file_row`` is of.

    Compared with guests set to ``madvise`` and ``always``, with and without a tmpfs mounted with ``huge=``.
    Not known here: files of direct-access (DAX) devices, and CONFIG_READ_ONLY_THP_FOR_FS; for other files outside
    shared memory see :mod:`vmaforensics.views.pages.thp_files`.
    """
    arch, settings = kernel.arch, _Settings(kernel)
    mode = settings.get("transparent_hugepage_flags")
    bits = [kernel.types.constant(f"TRANSPARENT_HUGEPAGE_{name}") for name in ("FLAG", "REQ_MADV_FLAG")]
    off = [kernel.types.constant(f"TRANSPARENT_HUGEPAGE_{name}") for name in ("UNSUPPORTED", "NEVER_DAX")]
    if mode is None and bits[0] is not None:  # it was built with huge pages, and the setting has no symbol
        return ThpEligible(np.zeros(len(vmas), np.bool_), np.zeros(len(vmas), np.bool_))
    if mode is None or bits[0] is None or bits[1] is None or any(bit is not None and mode >> bit & 1 for bit in off):
        return ThpEligible(np.zeros(len(vmas), np.bool_), vmas.ok & (not settings.unread))
    always, enabled = bool(mode >> bits[0] & 1), bool(mode & (1 << bits[0] | 1 << bits[1]))
    advised = _has(vmas, flags.VM_HUGEPAGE)
    disabled = _disabled(kernel, vmas.mm)
    usable = vmas.ok & ~_has(vmas, flags.VM_NOHUGEPAGE) & ~disabled.off

    early = np.uint64(flags.VM_GROWSDOWN | flags.VM_SEQ_READ | flags.VM_RAND_READ)  # vma_is_temporary_stack
    anonymous = usable & (vmas.ops == 0) & ((vmas.flags & early) != early)
    # THP_ORDERS_ALL_ANON: there are none of 1 or 2 pages.
    orders = _orders(settings, "huge_anon_orders", advised, always | (enabled & advised)) & ~np.uint64(0b11)
    eligible = np.zeros(len(vmas), np.bool_)
    for order in range(arch.huge_order + 1):
        eligible |= anonymous & ((orders >> np.uint64(order) & np.uint64(1)) != 0) & _fits(arch, vmas, order)

    shmem = _shmem(kernel, files, vmas, advised, settings)
    huge = shmem.huge
    folios, folios_known = takes_huge_folios(kernel, files, vmas)
    paired = (arch.pages(vmas.start) - vmas.pgoff) % np.uint64(2) == 0  # the smallest: whatever is larger fits it too
    pairs = usable & ~shmem.shared & (always | (enabled & advised)) & paired & _fits(arch, vmas, 1)
    eligible |= pairs & folios
    aligned = (arch.pages(vmas.start) - vmas.pgoff) % np.uint64(1 << arch.huge_order) == 0
    own = kernel.symbols.get("shmem_anon_vm_ops")
    if own is not None and kernel.symbols.get("huge_shmem_orders_inherit") is not None:
        allowed = _orders(settings, "huge_shmem_orders", advised, huge) != 0
        huge = np.where(vmas.ops == np.uint64(own), allowed, huge)
    room = usable & aligned & _fits(arch, vmas, arch.huge_order)
    eligible |= shmem.shared & huge & room
    known = vmas.ok & disabled.known & (shmem.known | ~room | (vmas.ops == 0)) & (not settings.unread)
    known &= folios_known | ~pairs
    return ThpEligible(eligible, known)


def _has(vmas: Vmas, flag: int) -> Bools:
    found: Bools = (vmas.flags & np.uint64(flag)) != 0
    return found


class _Settings:
    """Settings by symbol. ``unread``: one that the kernel has is not in the image."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.huge_order = kernel.arch.huge_order
        self.unread = False

    def get(self, name: str, size: int = 8) -> int | None:
        """The number, None where the kernel has no such setting or it could not be read."""
        at = self._kernel.symbols.get(name)
        if at is None:
            return None
        data, ok = self._kernel.space.gather(np.array([at], np.uint64), size)
        self.unread |= not ok[0]
        return int.from_bytes(data.tobytes(), "little") if ok[0] else None


def _orders(settings: _Settings, name: str, advised: Bools, inherited: Bools) -> U64:
    """Sizes of huge pages that settings allow, as bits; before there were several sizes (6.8) that of a PMD."""
    default = 1 << settings.huge_order
    words = [settings.get(f"{name}_{how}") for how in ("always", "madvise", "inherit")]
    if words[2] is None:
        words = [0, 0, default]
    own, madvise, inherit = (np.uint64(word or 0) for word in words)
    zero = np.uint64(0)
    allowed: U64 = own | np.where(advised, madvise, zero) | np.where(inherited, inherit, zero)
    return allowed


def _fits(arch: Architecture, vmas: Vmas, order: int) -> Bools:
    """thp_vma_suitable_order: is there an aligned piece of that size in the VMA?

    As in the kernel the start of the last piece wraps where the VMA ends below ``size``, which makes it fit.
    """
    size = np.uint64(arch.page_size << order)
    fits: Bools = vmas.end // size * size - size >= vmas.start
    return fits


class _Disabled(NamedTuple):
    """What prctl(PR_SET_THP_DISABLE) has set."""

    off: Bools
    known: Bools


def _disabled(kernel: Kernel, mms: U64) -> _Disabled:
    """Have the processes switched huge pages off? The gate VMA has no mm and no huge pages."""
    distinct, which = np.unique(mms, return_inverse=True)
    # In later kernels a bitmap, whose first word is what the flags were before.
    words, ok = kernel.words(distinct + np.uint64(kernel.offset("mm_struct", "flags.__mm_flags|flags")), 1)
    off = ((words[:, 0] >> np.uint64(_DISABLE_THP) & np.uint64(1)) != 0) | (distinct == 0)
    return _Disabled(off[which], (ok | (distinct == 0))[which])


class _Shmem(NamedTuple):
    """What is known of VMAs of shared memory."""

    shared: Bools  # is it one?
    huge: Bools  # does its mount or the system want huge pages there?
    known: Bools


@table(struct="inode")
class _Inodes(Table):
    """A row is the inode of a file that is mapped."""

    sb: U64 = member("i_sb")
    size: U64 = member("i_size")  # bytes


@table(struct="super_block")
class _SuperBlocks(Table):
    """A row is the super block of such an inode."""

    magic: U64 = member("s_magic")
    info: U64 = member("s_fs_info")


@table(struct="shmem_sb_info")
class _ShmemMounts(Table):
    """A row is what a tmpfs keeps of its mount (include/linux/shmem_fs.h)."""

    huge: U8 = member("huge")  # SHMEM_HUGE_*


def _shmem(kernel: Kernel, files: Files, vmas: Vmas, advised: Bools, settings: _Settings) -> _Shmem:
    """shmem_is_huge (mm/shmem.c) of each VMA."""
    arch = kernel.arch
    none, every = np.zeros(len(vmas), np.bool_), np.ones(len(vmas), np.bool_)
    members = ("super_block", "s_fs_info"), ("shmem_sb_info", "huge")
    if not len(files) or not all(kernel.has(struct, name) for struct, name in members):
        return _Shmem(none, none, every)
    at = np.flatnonzero(vmas.ok & (vmas.file_row >= 0) & (vmas.ops != 0))
    file_row = vmas.file_row[at]
    hosts, host_ok = kernel.gather_member("address_space", "host", files.mapping[file_row])
    inodes, inode_ok = kernel.gather(_Inodes, hosts)
    blocks, sb_ok = kernel.gather(_SuperBlocks, inodes.sb)
    mounts, mount_ok = kernel.gather(_ShmemMounts, blocks.info)
    ok = host_ok & inode_ok & sb_ok
    tmpfs = (blocks.magic == _TMPFS_MAGIC) & files.regular[file_row]
    shared, known = none.copy(), every
    shared[at] = ok & tmpfs
    known[at] = ok & (mount_ok | ~tmpfs)
    word = settings.get("shmem_huge", 4) or 0
    system = word - (1 << 32) if word >> 31 else word
    if system in (_DENY, _FORCE):
        return _Shmem(shared, np.full(len(vmas), system == _FORCE), known)
    pages = arch.pages(inodes.size + np.uint64(arch.page_size - 1))
    step = np.uint64(1 << arch.huge_order)
    within = pages >= (vmas.pgoff[at] // step + np.uint64(1)) * step
    wanted = (mounts.huge == _ALWAYS) | (mounts.huge == _WITHIN_SIZE) & within
    huge = none.copy()
    huge[at] = wanted | advised[at] & np.isin(mounts.huge, (_WITHIN_SIZE, _ADVISE))
    return _Shmem(shared, huge, known)
