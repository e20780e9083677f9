"""The ``struct file`` of every mapping: device, inode and path as ``/proc/PID/maps`` would print them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View
from vmaforensics.views.vmas.paths import resolve_paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

FILES = np.dtype(
    [
        ("file", np.uint64),
        ("ok", np.bool_),
        ("mapping", np.uint64),  # address_space
        ("inode", np.uint64),  # the inode shown, of the user's path where the file is a backing file
        ("dentry", np.uint64),
        ("mnt", np.uint64),  # struct vfsmount
        ("ino", np.uint64),
        ("dev", np.uint32),  # kernel's dev_t: major << 20 | minor
        ("nlink", np.uint32),
        ("regular", np.bool_),  # S_ISREG: its pages are page cache
    ]
)

_FIELDS = ("f_path.dentry|__f_path.dentry", "f_path.mnt|__f_path.mnt", "f_inode", "f_mode", "f_mapping")

# FMODE_NOACCOUNT (include/linux/fs.h). Every backing file has it, and few others. FMODE_BACKING itself has
# been bit 25 and bit 24, which no type information tells, so a candidate is proved by its contents.
_FMODE_NOACCOUNT = 1 << 29

# shmem keeps memfds, SysV segments and shared anonymous memory on a tmpfs that only the kernel mounts.
_TMPFS_MAGIC = 0x01021994  # include/uapi/linux/magic.h
_SB_KERNMOUNT = 1 << 22  # include/linux/fs.h
_S_IFMT, _S_IFREG = 0o170000, 0o100000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTable:
    """Files sorted by address (dtype ``FILES``), and what goes with each row.

    A path that could not be put together is None; ``is_shmem`` has one more element, False, so that a
    row of -1 may be looked up.
    """

    rows: NDArray[np.void]
    paths: list[bytes | None]
    is_shmem: NDArray[np.bool_]

    def rows_of(self, files: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row of each ``struct file`` address; -1 for NULL and for what is not in the table."""
        known = self.rows["file"]
        if not len(known):
            return np.full(len(files), -1, np.int64)
        row = np.minimum(np.searchsorted(known, files), len(known) - 1)
        return np.where(known[row] == files, row, -1)


def read_files(
    kernel: Kernel, addresses: NDArray[np.uint64], root: tuple[int, int] | None, log: ProblemLog
) -> FileTable:
    """Decode the files at ``addresses`` (repeats and NULL allowed).

    ``root`` is the reader's root, (dentry, vfsmount), at which paths begin.
    """
    addresses = np.unique(addresses)
    addresses = addresses[addresses != 0]
    wild = ~kernel_pointer(addresses)
    log.add(View.FILES, Problem.NON_CANONICAL, 0, addresses[wild], addresses[wild])
    rows = np.zeros(len(addresses), FILES)
    rows["file"] = addresses
    got, ok = kernel.gather("file", addresses, _FIELDS)
    ok &= ~wild
    log.add(View.FILES, Problem.UNREADABLE, 0, addresses[~ok & ~wild])
    rows["ok"], rows["mapping"], rows["inode"] = ok, got["f_mapping"], got["f_inode"]
    rows["dentry"], rows["mnt"] = got["f_path.dentry"], got["f_path.mnt"]
    _show_user_path(kernel, rows, got["f_mode"], log)
    magic = _inodes(kernel, rows, log)
    shmem = np.append(magic, False)
    paths = resolve_paths(kernel, rows["dentry"], rows["mnt"], rows["inode"], root, log)
    return FileTable(rows=rows, paths=paths, is_shmem=shmem)


def _show_user_path(kernel: Kernel, rows: NDArray[np.void], mode: NDArray[np.uint32], log: ProblemLog) -> None:
    """file_user_path and file_user_inode (include/linux/fs.h): show the stacked file system's own file."""
    # A path in 6.8 to 7.3; later kernels embed a whole file that holds the path.
    dentry_at, mnt_at = (f"user_path.{one}|user_path_file.f_path.{one}" for one in ("dentry", "mnt"))
    if not any(kernel.has("backing_file", path) for path in dentry_at.split("|")):
        return
    at = np.flatnonzero(rows["ok"] & ((mode & np.uint32(_FMODE_NOACCOUNT)) != 0))
    got, ok = kernel.gather("backing_file", rows["file"][at], [dentry_at, mnt_at])
    dentry, mnt = got[dentry_at.split("|")[0]], got[mnt_at.split("|")[0]]
    own, fine = kernel.gather("dentry", dentry, ["d_inode", "d_sb"])
    under, known = kernel.gather("vfsmount", mnt, ["mnt_sb"])
    log.add(View.FILES, Problem.UNREADABLE, 0, rows["file"][at[~ok]])
    good = ok & fine & known & (own["d_sb"] == under["mnt_sb"]) & (own["d_inode"] != 0)
    rows["dentry"][at[good]], rows["mnt"][at[good]] = dentry[good], mnt[good]
    rows["inode"][at[good]] = own["d_inode"][good]


def _inodes(kernel: Kernel, rows: NDArray[np.void], log: ProblemLog) -> NDArray[np.bool_]:
    """Fill in device, inode number and link count; returns which files live on shmem."""
    inodes, inverse = np.unique(rows["inode"], return_inverse=True)
    got, ok = kernel.gather("inode", inodes, ["i_ino", "i_sb", "i_nlink", "i_mode"])
    supers, again = np.unique(got["i_sb"], return_inverse=True)
    sb, fine = kernel.gather("super_block", supers, ["s_dev", "s_magic", "s_flags"])
    log.add(View.FILES, Problem.UNREADABLE, 0, inodes[~ok & (inodes != 0)])
    rows["ino"], rows["nlink"] = got["i_ino"][inverse], got["i_nlink"][inverse]
    rows["regular"] = ((got["i_mode"] & _S_IFMT) == _S_IFREG)[inverse]
    rows["dev"] = sb["s_dev"][again][inverse]
    rows["ok"] &= ok[inverse] & fine[again][inverse]
    own = (sb["s_flags"].astype(np.uint64) & np.uint64(_SB_KERNMOUNT)) != 0
    shmem: NDArray[np.bool_] = ((sb["s_magic"] == _TMPFS_MAGIC) & own)[again][inverse]
    return shmem
