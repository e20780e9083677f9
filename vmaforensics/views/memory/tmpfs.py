"""Files that live in memory: those of every tmpfs, memory files, System V and other shared memory (mm/shmem.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.texts import Texts
from vmaforensics.columns.types import I64, U64
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.structures.circular_lists import follow_list
from vmaforensics.views.vmas.paths import paths_in_file_system

if TYPE_CHECKING:
    from vmaforensics.columns.types import Bools
    from vmaforensics.kernel.kernel import Kernel

_TMPFS_MAGIC: Final = 0x01021994  # include/uapi/linux/magic.h
_MOST_FILE_SYSTEMS: Final = 1 << 12
_MOST_FILES: Final = 1 << 14  # of all of them: each is stepped over by itself
_MOST_PAGES: Final = 1 << 40  # of a file: more is not believed
_NAME: Final = 32


@table(struct="inode")
class ShmemFiles(Table):
    """A row is an inode that has pages in memory or in swap, the largest first."""

    inode: U64  # address
    super_block: U64
    size: U64 = member("i_size")  # bytes
    alias: U64 = member("i_dentry.first")  # of a dentry; 0: it has no name any more
    pages: I64  # in memory
    swapped: I64  # pages


class ShmemUse(NamedTuple):
    """The files, their paths within their file systems, and whether there are more."""

    files: ShmemFiles
    names: Texts  # as the image has them
    whole: bool


def read_shmem_use(kernel: Kernel, most: int) -> ShmemUse | None:
    """The ``most`` largest files of all file systems of shared memory; None where the kernel's are not known."""
    head = kernel.symbols.get("super_blocks")
    needed = (("super_block", "s_inodes"), ("inode", "i_sb_list"), ("shmem_inode_info", "swapped"))
    if head is None or not all(kernel.has(struct, path) for struct, path in needed):
        return None
    links, whole = follow_list(kernel, head, _MOST_FILE_SYSTEMS)
    blocks = links - np.uint64(kernel.offset("super_block", "s_list"))
    magic, ok = kernel.gather_member("super_block", "s_magic", blocks)
    whole &= bool(ok.all())
    parts = []
    left = _MOST_FILES
    for block in blocks[ok & (magic == _TMPFS_MAGIC)].tolist():
        nodes, ended = follow_list(kernel, block + kernel.offset("super_block", "s_inodes"), left)
        whole &= ended
        left -= len(nodes)
        files, read = kernel.gather(ShmemFiles, nodes - np.uint64(kernel.offset("inode", "i_sb_list")))
        files.inode[:] = nodes - np.uint64(kernel.offset("inode", "i_sb_list"))
        files.super_block[:] = block
        whole &= bool(read.all())
        parts.append(files.take(read))
    files = ShmemFiles.concatenate(parts)
    whole &= _count(kernel, files)
    files = files.sort_by(-(files.pages + files.swapped)).take(slice(0, most))
    files = files.take(files.pages + files.swapped > 0)
    return ShmemUse(files, _names(kernel, files), whole)


def _count(kernel: Kernel, files: ShmemFiles) -> bool:
    """Write the pages of each file; were all read?"""
    # A block device's inode leads to the pages of the device by i_mapping: these are not in memory for the file.
    pages, ok = kernel.gather_member("inode", "i_data.nrpages", files.inode)
    with np.errstate(over="ignore"):
        info = files.inode - np.uint64(kernel.offset("shmem_inode_info", "vfs_inode"))
    swapped, read = kernel.gather_member("shmem_inode_info", "swapped", info)
    known: Bools = ok & read & (pages < _MOST_PAGES) & (swapped < _MOST_PAGES)
    files.pages[:] = np.where(known, pages, 0)
    files.swapped[:] = np.where(known, swapped, 0)
    return bool(known.all())


def _names(kernel: Kernel, files: ShmemFiles) -> Texts:
    """``FILESYSTEM:path`` of each; what has no dentry is named by its inode's address."""
    alias = np.uint64(kernel.offset("dentry", "d_u.d_alias|d_alias"))
    with np.errstate(over="ignore"):
        dentries = np.where(kernel.arch.kernel_pointer(files.alias), files.alias - alias, np.uint64(0))
    paths = paths_in_file_system(kernel, dentries, ProblemLog())
    labels = _labels(kernel, files.super_block)
    return Texts.of(
        label + b":" + (path if path is not None else b"[unnamed]") for label, path in zip(labels, paths, strict=True)
    )


def _labels(kernel: Kernel, blocks: U64) -> list[bytes]:
    """The name each file system goes by: that of its type."""
    kinds, ok = kernel.gather_member("super_block", "s_type", blocks)
    pointers, read = kernel.gather_member("file_system_type", "name", kinds)
    names = kernel.strings(np.where(ok & read, pointers, np.uint64(0)), _NAME)
    return [name or b"?" for name in names]
