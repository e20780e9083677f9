"""The ``struct file`` of every mapping: device, inode and path as ``/proc/PID/maps`` would print them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U32, U64, Bools
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import FILE, INODE, Homes
from vmaforensics.views.view import View
from vmaforensics.views.vmas.paths import resolve_paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.vmas.paths import Place


@table(struct="file")
class Files(Table):
    """Open files: a row is a ``struct file`` (include/linux/fs.h), sorted by its address."""

    file: U64  # address of the struct file
    ok: Bools  # it, its inode and super block were read
    mapping: U64 = member("f_mapping")  # address_space
    inode: U64 = member("f_inode")  # the inode shown: of the user's path where the file is a backing file
    dentry: U64 = member("f_path.dentry|__f_path.dentry")
    mnt: U64 = member("f_path.mnt|__f_path.mnt")  # struct vfsmount
    ino: U64
    dev: U32  # the kernel's dev_t: major << 20 | minor
    nlink: U32
    regular: Bools  # S_ISREG: its pages are page cache
    dax: Bools  # IS_DAX: its pages are those of persistent memory, without a page cache
    shmem: Bools  # lives on the tmpfs that only the kernel mounts
    hugetlb: Bools  # lives on a hugetlbfs
    stacked: Bools  # lives on a file system that keeps its files on another, as far as the kernel says


@table(struct="inode")
class _Inodes(Table):
    ino: U64 = member("i_ino")
    sb: U64 = member("i_sb")
    nlink: U32 = member("i_nlink")
    mode: U32 = member("i_mode")
    flags: U32 = member("i_flags?")


@table(struct="super_block")
class _SuperBlocks(Table):
    dev: U32 = member("s_dev")
    magic: U64 = member("s_magic")
    flags: U64 = member("s_flags")
    depth: I32 = member("s_stack_depth?")  # of file systems on top of each other (include/linux/fs.h); 0: of none


# FMODE_NOACCOUNT (include/linux/fs.h). Every backing file has it, and few others. FMODE_BACKING itself has
# been bit 25 and bit 24, which no type information tells, so a candidate is proved by its contents.
_MADE_BY = "alloc_empty_backing_file"  # where the kernel has it, it has backing files (fs/file_table.c, since 6.5)
_FMODE_NOACCOUNT = 1 << 29

# shmem keeps memfds, SysV segments and shared anonymous memory on a tmpfs that only the kernel mounts.
_TMPFS_MAGIC = 0x01021994  # include/uapi/linux/magic.h
_HUGETLBFS_MAGIC = 0x958458F6
_SB_KERNMOUNT = 1 << 22  # include/linux/fs.h
_S_IFMT, _S_IFREG = 0o170000, 0o100000
_S_DAX = 1 << 13  # of i_flags, include/linux/fs.h


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTable:
    """Files, and the path of each row: raw bytes, None where it could not be put together."""

    rows: Files
    paths: list[bytes | None]

    def rows_of(self, files: U64) -> NDArray[np.int64]:
        """Row of each ``struct file`` address; -1 for NULL and for what is not in the table."""
        return rows_of(self.rows.file, files)


def read_files(kernel: Kernel, addresses: U64, root: Place | None, log: ProblemLog) -> FileTable:
    """Decode the files at ``addresses`` (repeats and NULL allowed).

    ``root`` is the reader's root, at which paths begin.
    """
    addresses = distinct(addresses)
    addresses = addresses[addresses != 0]
    wild = ~kernel.arch.kernel_pointer(addresses)
    log.add(View.FILES, Problem.NON_CANONICAL, 0, addresses[wild], addresses[wild])
    stale = ~wild & kernel.shared(Homes).strangers(FILE, addresses)
    log.add(View.FILES, Problem.STALE, 0, addresses[stale], addresses[stale])
    rows, ok = kernel.gather(Files, addresses)
    log.add(View.FILES, Problem.UNREADABLE, 0, addresses[~ok & ~wild & ~stale])
    rows = rows.take_or_fill(np.where(stale, -1, np.arange(len(rows))))
    rows.file[:], rows.ok[:] = addresses, ok & ~wild & ~stale
    _show_user_path(kernel, rows, log)
    _read_inodes(kernel, rows, log)
    return FileTable(rows=rows, paths=resolve_paths(kernel, rows.dentry, rows.mnt, rows.inode, root, log))


def is_regular(modes: NDArray[np.integer[Any]]) -> Bools:
    """Of which inodes with these ``i_mode`` the pages are page cache (S_ISREG, include/uapi/linux/stat.h)."""
    found: Bools = (modes & modes.dtype.type(_S_IFMT)) == _S_IFREG
    return found


def _show_user_path(kernel: Kernel, rows: Files, log: ProblemLog) -> None:
    """file_user_path and file_user_inode (include/linux/fs.h): show the stacked file system's own file."""
    # A path in 6.8 to 7.3; later kernels embed a whole file that holds the path.
    dentry_at, mnt_at = (f"user_path.{name}|user_path_file.f_path.{name}" for name in ("dentry", "mnt"))
    has = kernel.has if kernel.symbols.get(_MADE_BY) is None else kernel.knows
    if not has("backing_file", dentry_at):
        return
    mode, known = kernel.gather_member("file", "f_mode", rows.file)
    rows.ok[~known] = False
    at = np.flatnonzero(rows.ok & ((mode & np.uint64(_FMODE_NOACCOUNT)) != 0))
    dentry, ok = kernel.gather_member("backing_file", dentry_at, rows.file[at])
    mnt, mnt_ok = kernel.gather_member("backing_file", mnt_at, rows.file[at])
    log.add(View.FILES, Problem.UNREADABLE, 0, rows.file[at[~(ok & mnt_ok)]])
    inode, inode_ok = kernel.gather_member("dentry", "d_inode", dentry)
    own_sb, sb_ok = kernel.gather_member("dentry", "d_sb", dentry)
    mount_sb, mount_ok = kernel.gather_member("vfsmount", "mnt_sb", mnt)
    good = ok & mnt_ok & inode_ok & sb_ok & mount_ok & (own_sb == mount_sb) & (inode != 0)
    rows.dentry[at[good]], rows.mnt[at[good]], rows.inode[at[good]] = dentry[good], mnt[good], inode[good]


def _read_inodes(kernel: Kernel, rows: Files, log: ProblemLog) -> None:
    """Fill in what the inode and the super block of each row say: device, number, links, type."""
    addresses, which = np.unique(rows.inode, return_inverse=True)
    stale = (addresses != 0) & kernel.shared(Homes).strangers(INODE, addresses)
    log.add(View.FILES, Problem.STALE, 0, addresses[stale], addresses[stale])
    inodes, ok = kernel.gather(_Inodes, addresses)
    log.add(View.FILES, Problem.UNREADABLE, 0, addresses[~ok & (addresses != 0) & ~stale])
    ok &= ~stale
    inodes = inodes.take_or_fill(np.where(ok, np.arange(len(inodes)), -1))
    supers, of_inode = np.unique(inodes.sb, return_inverse=True)
    blocks, sb_ok = kernel.gather(_SuperBlocks, supers)
    block = of_inode[which]
    rows.ino[:], rows.nlink[:], rows.dev[:] = inodes.ino[which], inodes.nlink[which], blocks.dev[block]
    rows.regular[:] = is_regular(inodes.mode)[which]
    rows.dax[:] = ((inodes.flags & np.uint32(_S_DAX)) != 0)[which]
    rows.ok[:] &= ok[which] & sb_ok[block]
    own = (blocks.flags & np.uint64(_SB_KERNMOUNT)) != 0
    rows.hugetlb[:] = (blocks.magic == _HUGETLBFS_MAGIC)[block]
    rows.stacked[:] = (blocks.depth > 0)[block] | (not kernel.has("super_block", "s_stack_depth"))
    rows.shmem[:] = ((blocks.magic == _TMPFS_MAGIC) & own)[block]
