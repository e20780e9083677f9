"""What a file is by each record that a map shows it by: the file, its inode, its dentries, its mount.

``/proc/PID/maps`` prints the device and number of ``file->f_inode`` and the path of ``file->f_path``. Nothing but these
pointers ties the one to the other, so each is read here with what it should agree with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U32, U64, Bools
from vmaforensics.views.slab.homes import DENTRY, INODE, Homes
from vmaforensics.views.vmas.files import is_regular
from vmaforensics.views.vmas.name_hash import name_hashes

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.vmas.files import Files

# Of struct super_block.s_magic: a file that overlayfs opened beneath itself has the path of the one above (up to 6.7),
# and ecryptfs, coda and others that are stacked have pages of the one beneath (include/uapi/linux/magic.h). Files of
# anon_inodefs, regular since 6.17, share an inode, and drivers give them pages of their own (vfio_device_open).
_STACKED: Final = (0x794C7630, 0xF15F, 0x73757245, 0x09041934)
_NAME_MAX: Final = 255  # include/uapi/linux/limits.h
_GENERATIONS: Final = 2100  # PATH_MAX / 2 names
_LOCK: Final = np.uint64(1)  # bit 0 of the head of a chain of dentries is its lock (include/linux/list_bl.h)


@table(struct="file")
class Identities(Table):
    """A row for each row of the file table."""

    file: U64
    ok: Bools  # all of it was read
    inode: U64 = member("f_inode")
    mapping: U64 = member("f_mapping")  # address_space
    dentry: U64 = member("f_path.dentry|__f_path.dentry")
    mnt: U64 = member("f_path.mnt|__f_path.mnt")  # vfsmount
    named: U64  # d_inode of the dentry
    dentry_sb: U64  # d_sb of the dentry
    mount_sb: U64  # mnt_sb of the mount
    pages: U64  # i_mapping of the inode
    foreign: Bools  # f_mapping has the pages of another regular file
    exchanged: Bools  # f_mapping has the pages of this regular file, and i_mapping is another
    stacked: Bools  # the dentry is one of a file system that stands upon others


@table(struct="dentry")
class Dentries(Table):
    """Dentries that files have, and all above them, by address.

    Roots are left out: they are called ``/``, or, where a file system is mounted nowhere, are on no chain.
    """

    dentry: U64
    parent: U64 = member("d_parent")
    name: U64 = member("d_name.name|__d_name.name")
    length: U32 = member("d_name.len|__d_name.len")  # bytes
    hash: U32 = member("d_name.hash|__d_name.hash")
    pprev: U64 = member("d_hash.pprev")  # 0: not on a chain, so deleted or never named
    operations: U64 = member("d_op")
    sequence: U32 = member("d_seq.seqcount.sequence|d_seq.sequence?")  # odd: is being changed
    users: I32 = member("d_lockref.count?")  # below 0: was given back
    file: I32  # row of a file below it
    due: U32  # the hash that this name has beneath this parent
    hashed: Bools  # ``due`` is known, and its file system hashes names as all do
    one_page: Bools  # the dentry and its name lie in one page
    back: U64  # what pprev leads to
    chain_read: Bools  # ``back`` could be read


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitiesView:
    """See :func:`read_identities`."""

    files: Identities
    dentries: Dentries
    dentry_hash: int  # offset of d_hash in a dentry
    name_hash: int  # offset of d_name.hash


def read_identities(kernel: Kernel, files: Files) -> IdentitiesView:
    """Read what the rows of a file table are known by. Raises :class:`KernelNotFoundError` for a missing member."""
    rows, ok = kernel.gather(Identities, files.file)
    ok &= files.ok
    homes = kernel.shared(Homes)
    at_home = ~homes.strangers(DENTRY, rows.dentry) & ~homes.strangers(INODE, rows.inode)
    parts = [
        kernel.gather_member("dentry", "d_inode", rows.dentry),
        kernel.gather_member("dentry", "d_sb", rows.dentry),
        kernel.gather_member("vfsmount", "mnt_sb", rows.mnt),
        kernel.gather_member("inode", "i_mapping", rows.inode),
    ]
    magic, magic_ok = kernel.gather_member("super_block", "s_magic", parts[1][0])
    for _, read in parts:
        ok &= read
    (named, _), (dentry_sb, _), (mount_sb, _), (pages, _) = parts
    host, host_ok = kernel.gather_member("address_space", "host", rows.mapping)
    mode, mode_ok = kernel.gather_member("inode", "i_mode", host)
    regular = host_ok & mode_ok & is_regular(mode)
    stacked = np.isin(magic, np.array(_STACKED, np.uint64)) | ~magic_ok
    rows = rows.replace(
        file=files.file,
        ok=ok & at_home,
        named=named,
        dentry_sb=dentry_sb,
        mount_sb=mount_sb,
        pages=pages,
        foreign=regular & (host != rows.inode),
        exchanged=regular & (host == rows.inode) & (rows.mapping != pages),
        stacked=stacked,
    )
    return IdentitiesView(
        files=rows,
        dentries=_dentries(kernel, rows),
        dentry_hash=kernel.offset("dentry", "d_hash"),
        name_hash=kernel.offset("dentry", "d_name.hash|__d_name.hash"),
    )


def _dentries(kernel: Kernel, files: Identities) -> Dentries:
    """The dentries of files, and those above them up to the roots of their file systems."""
    homes = kernel.shared(Homes)
    parts = [Dentries.zeros(0)]
    fresh, first = np.unique(files.dentry[files.ok], return_index=True)
    below = np.flatnonzero(files.ok)[first]
    known = np.zeros(0, np.uint64)
    for _ in range(_GENERATIONS):
        typed = (fresh != 0) & ~homes.strangers(DENTRY, fresh)
        fresh, below = fresh[typed], below[typed]
        if not len(fresh):
            break
        rows, ok = kernel.gather(Dentries, fresh)
        rows = rows.replace(dentry=fresh, file=below.astype(np.int32))
        known = distinct(known, fresh)
        rows = rows.take(ok & ((rows.parent != rows.dentry) | ((rows.pprev != 0) & (rows.length != 1))))
        parts.append(rows)
        fresh, first = np.unique(rows.parent, return_index=True)
        below = rows.file[first].astype(np.int64)
        new = rows_of(known, fresh) < 0
        fresh, below = fresh[new], below[new]
    rows = Dentries.concatenate(parts)
    _hash_names(kernel, rows)
    back, read = kernel.words(rows.pprev, 1)
    size, shift = np.uint64(kernel.sizeof("dentry") - 1), np.uint64(kernel.arch.page_shift)
    page = rows.dentry >> shift
    whole = (rows.dentry + size >> shift == page) & (rows.name >> shift == page)
    one_page = whole & (rows.name + rows.length.astype(np.uint64) >> shift == page)
    return rows.replace(back=back[:, 0] & ~_LOCK, chain_read=read, one_page=one_page)


def _hash_names(kernel: Kernel, rows: Dentries) -> None:
    """Fill in ``due`` and ``hashed``; names of one length together."""
    tables, which = np.unique(rows.operations, return_inverse=True)
    own, ok = kernel.gather_member("dentry_operations", "d_hash", tables)
    usual = values_at((tables == 0) | (ok & (own == 0)), which)
    for length in distinct(rows.length[rows.length <= _NAME_MAX]).tolist():
        at = np.flatnonzero(usual & (rows.length == length))
        names, read = kernel.space.gather(rows.name[at], length)
        rows.due[at], rows.hashed[at] = name_hashes(names, rows.parent[at]), read
