"""Paths as d_path prints them (fs/d_path.c): names up to the reader's root, across mounts.

The dentries and mounts on the way are closed over first, a gather per generation; then each path is put
together in memory, once per distinct (dentry, mount).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import DENTRY, MOUNT, Homes
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Container

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.slab.homes import Kind

_GENERATIONS = 2100  # PATH_MAX / 2 names, and some mounts
_NAME_MAX = 4096


class Place(NamedTuple):
    """A ``struct path`` (include/linux/path.h): where a file lies, or where paths begin."""

    dentry: int
    mnt: int  # struct vfsmount


@table(struct="dentry")
class _Dentries(Table):
    dentry: U64
    parent: U64 = member("d_parent")
    name: U64 = member("d_name.name|__d_name.name")
    length: U32 = member("d_name.len|__d_name.len")  # bytes
    hashed: U64 = member("d_hash.pprev")  # NULL: the file was deleted
    operations: U64 = member("d_op")


@table(struct="mount")
class _Mounts(Table):
    mnt: U64  # address of the vfsmount in it
    root: U64 = member("mnt.mnt_root")
    parent: U64 = member("mnt_parent")  # struct mount
    mountpoint: U64 = member("mnt_mountpoint")


class _Dentry(NamedTuple):
    parent: int
    name: bytes | None  # None: not in the dump
    hashed: bool
    d_dname: int  # the operation that makes up its name, 0 for none


class _Mount(NamedTuple):
    root: int
    parent: int  # vfsmount
    mountpoint: int


class _Forest(NamedTuple):
    """Dentries and mounts by address: everything the climbs may need."""

    dentries: dict[int, _Dentry]
    mounts: dict[int, _Mount]


def resolve_paths(
    kernel: Kernel, dentries: U64, mounts: U64, inodes: U64, root: Place | None, log: ProblemLog
) -> list[bytes | None]:
    """The path of each (dentry, vfsmount), raw bytes as the kernel would give them to seq_path.

    None where a dentry or mount on the way is not in the dump. Newlines are not escaped here. ``inodes`` are those
    of the dentries: pseudo file systems make their numbers part of the name.
    """
    forest = _read_forest(kernel, dentries, mounts, log)
    files = list(zip(dentries.tolist(), mounts.tolist(), inodes.tolist(), strict=True))
    unnamed = {inode for dentry, _, inode in files if dentry in forest.dentries and forest.dentries[dentry].d_dname}
    pseudo = _pseudo_files(kernel, unnamed)
    done: dict[Place, bytes | None] = {}
    for dentry, mnt, inode in files:
        place = Place(dentry, mnt)
        if place not in done:
            found = forest.dentries.get(dentry)
            if found is not None and found.d_dname and not _is_root(forest, place):
                kind, number = pseudo.get(inode, ("", 0))
                done[place] = _pseudo_name(kind, found.name, number)
            else:
                done[place] = _path(forest, place, root)
    return [done[Place(dentry, mnt)] for dentry, mnt, _ in files]


# Pseudo file systems whose d_dname is their own, by the magic of their superblocks (include/uapi/linux/magic.h); that
# of all others is simple_dname. Operations could be told by their symbols alone.
_DNAMES = {
    0x09041934: "anon_inode",
    0x534F434B: "socket",
    0x50495045: "pipe",
    0x444D4142: "dmabuf",
}


def paths_in_file_system(kernel: Kernel, dentries: U64, log: ProblemLog) -> list[bytes | None]:
    """The path of each dentry from the root of its file system on, wherever that is mounted (dentry_path)."""
    forest = _read_forest(kernel, dentries, np.zeros(0, np.uint64), log)
    return [_path_of_dentry(forest, dentry) for dentry in dentries.tolist()]


def _path_of_dentry(forest: _Forest, address: int) -> bytes | None:
    names: list[bytes] = []
    seen: set[int] = set()
    while (dentry := forest.dentries.get(address)) is not None and address not in seen:
        if dentry.parent == address:
            return b"".join(reversed(names)) or b"/"
        if dentry.name is None:
            return None
        seen.add(address)
        names.append(b"/" + dentry.name)
        address = dentry.parent
    return None


def _is_root(forest: _Forest, place: Place) -> bool:
    """Is this the root of both its file system and its mount (IS_ROOT in d_path)?"""
    mount = forest.mounts.get(place.mnt)
    return mount is not None and forest.dentries[place.dentry].parent == place.dentry == mount.root


def _path(forest: _Forest, place: Place, root: Place | None) -> bytes | None:
    """prepend_path: the names from the reader's root down to ``place``."""
    first = forest.dentries.get(place.dentry)
    deleted = first is not None and not first.hashed and first.parent != place.dentry
    names: list[bytes] = []
    seen: set[Place] = set()
    while place != root:
        dentry, mount = forest.dentries.get(place.dentry), forest.mounts.get(place.mnt)
        if place in seen or dentry is None or mount is None:
            return None
        seen.add(place)
        if place.dentry == mount.root:
            if mount.parent == place.mnt:  # the root of this mount namespace
                break
            place = Place(mount.mountpoint, mount.parent)
            continue
        if dentry.parent == place.dentry:  # a bind mount's subtree was left behind
            break
        if dentry.name is None:
            return None
        names.append(b"/" + dentry.name)
        place = Place(dentry.parent, place.mnt)
    path = b"".join(reversed(names)) or b"/"
    return path + b" (deleted)" if deleted else path


def _pseudo_name(kind: str, name: bytes | None, inode: int) -> bytes | None:
    if kind == "socket":
        return b"socket:[%d]" % inode
    if kind == "pipe":
        return b"pipe:[%d]" % inode
    if name is None or not kind:
        return None
    if kind == "anon_inode":
        return b"anon_inode:" + name
    if kind == "dmabuf":
        return b"/" + name + b":"
    return b"/" + name + b" (deleted)"


def _read_forest(kernel: Kernel, dentries: U64, mounts: U64, log: ProblemLog) -> _Forest:
    """Read every dentry and mount that climbing from the given ones can touch, a generation per round."""
    lost = kernel.types_damaged and not kernel.has("mount", "mnt")
    embedded = np.uint64(0 if lost else kernel.offset("mount", "mnt"))
    mounts = mounts[:0] if lost else mounts  # what a mount is is not known: no path is whole
    dentry_parts, mount_parts = [_Dentries.zeros(0)], [_Mounts.zeros(0)]
    known_dentries: set[int] = set()
    known_mounts: set[int] = set()
    new_dentries, new_mounts = distinct(dentries[dentries != 0]), distinct(mounts[mounts != 0])
    for _ in range(_GENERATIONS):
        if not len(new_dentries) and not len(new_mounts):
            break
        new_dentries = _at_home(kernel, DENTRY, new_dentries, new_dentries, log)
        new_mounts = _at_home(kernel, MOUNT, new_mounts - embedded, new_mounts, log)
        entries, ok = kernel.gather(_Dentries, new_dentries)
        entries.dentry[:] = new_dentries
        log.add(View.FILES, Problem.UNREADABLE, 0, new_dentries[~ok])
        entries = entries.take(ok)
        above, ok = kernel.gather(_Mounts, new_mounts - embedded)
        above.mnt[:] = new_mounts
        log.add(View.FILES, Problem.UNREADABLE, 0, new_mounts[~ok])
        above = above.take(ok)
        dentry_parts.append(entries)
        mount_parts.append(above)
        known_dentries.update(entries.dentry.tolist())
        known_mounts.update(above.mnt.tolist())
        new_dentries = _unknown(kernel, np.concatenate([entries.parent, above.mountpoint]), known_dentries)
        new_mounts = _unknown(kernel, above.parent + embedded, known_mounts)
    found, on = _Dentries.concatenate(dentry_parts), _Mounts.concatenate(mount_parts)
    hashed, d_dname = found.hashed != 0, _name_operations(kernel, found.operations)
    rows = zip(found.parent.tolist(), _read_names(kernel, found), hashed.tolist(), d_dname.tolist(), strict=True)
    mounted = zip(on.root.tolist(), (on.parent + embedded).tolist(), on.mountpoint.tolist(), strict=True)
    return _Forest(
        dict(zip(found.dentry.tolist(), map(_Dentry._make, rows), strict=True)),
        dict(zip(on.mnt.tolist(), map(_Mount._make, mounted), strict=True)),
    )


def _at_home(kernel: Kernel, kind: Kind, objects: U64, pointers: U64, log: ProblemLog) -> U64:
    """Those of ``pointers`` that lead into ``objects`` of the kind."""
    stale = kernel.shared(Homes).strangers(kind, objects)
    log.add(View.FILES, Problem.STALE, 0, pointers[stale], pointers[stale])
    return pointers[~stale]


def _unknown(kernel: Kernel, addresses: U64, known: Container[int]) -> U64:
    usable = distinct(addresses[kernel.arch.kernel_pointer(addresses)])
    return np.array([address for address in usable.tolist() if address not in known], np.uint64)


def _read_names(kernel: Kernel, dentries: _Dentries) -> list[bytes | None]:
    """The name of each dentry; names of one length are read together."""
    names: list[bytes | None] = [None] * len(dentries)
    length = np.minimum(dentries.length, _NAME_MAX)
    for size in distinct(length).tolist():
        rows = np.flatnonzero(length == size)
        data, ok = kernel.space.gather(dentries.name[rows], size)
        for row, raw, readable in zip(rows.tolist(), data, ok.tolist(), strict=True):
            # prepend_name stops at a NUL: a name being changed may be shorter than its length.
            names[row] = raw.tobytes().split(b"\0", 1)[0] if readable else None
    return names


def _name_operations(kernel: Kernel, operations: U64) -> U64:
    """``d_dname`` of the ``dentry_operations`` at each address; 0 for none."""
    known, which = np.unique(operations, return_inverse=True)
    named = known != 0
    found = np.zeros(len(known), np.uint64)
    found[named], _ = kernel.gather_member("dentry_operations", "d_dname", known[named])
    return found[which]


def _pseudo_files(kernel: Kernel, inodes: set[int]) -> dict[int, tuple[str, int]]:
    """How the file system of each of ``inodes`` spells names, and its number; none for what cannot be read."""
    wanted = np.array(sorted(inodes), np.uint64)
    numbers, ok = kernel.gather_member("inode", "i_ino", wanted)
    blocks, has_block = kernel.gather_member("inode", "i_sb", wanted)
    magic, has_magic = kernel.gather_member("super_block", "s_magic", blocks)
    ok &= has_block & has_magic
    kinds = [_DNAMES.get(value, "simple") for value in magic[ok].tolist()]
    return dict(zip(wanted[ok].tolist(), zip(kinds, numbers[ok].tolist(), strict=True), strict=True))


def reader_root(kernel: Kernel, tasks: Tasks) -> Place | None:
    """Where paths begin for whoever reads them: the root of pid 1, or of init_task."""
    readers = tasks.task[(tasks.pid == 1) & tasks.ok]
    if (init_task := kernel.symbols.get("init_task")) is not None:
        readers = np.append(readers, np.uint64(init_task))
    fs, ok = kernel.gather_member("task_struct", "fs", readers)
    dentry, dentry_ok = kernel.gather_member("fs_struct", "root.dentry", fs)
    mnt, mnt_ok = kernel.gather_member("fs_struct", "root.mnt", fs)
    for row in np.flatnonzero(ok & dentry_ok & mnt_ok)[:1].tolist():
        return Place(int(dentry[row]), int(mnt[row]))
    return None
