"""Paths as d_path prints them (fs/d_path.c): names up to the reader's root, across mounts.

The dentries and mounts on the way are closed over first, a gather per generation; then each path is put
together in memory, once per distinct (dentry, mount).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks

_GENERATIONS = 2100  # PATH_MAX / 2 names, and some mounts
_NAME_MAX = 4096

_DENTRY = ["d_parent", "d_name.name|__d_name.name", "d_name.len|__d_name.len", "d_hash.pprev", "d_op"]


@dataclass(slots=True)
class _Forest:
    """Dentries and mounts by address: everything the climbs may need."""

    parent: dict[int, int]
    name: dict[int, bytes | None]
    hashed: dict[int, bool]
    pseudo: dict[int, int]  # d_dname operation, 0 for none
    mount_root: dict[int, int]
    mount_parent: dict[int, int]
    mountpoint: dict[int, int]


def resolve_paths(
    kernel: Kernel,
    dentries: NDArray[np.uint64],
    mounts: NDArray[np.uint64],
    inodes: NDArray[np.uint64],
    root: tuple[int, int] | None,
    log: ProblemLog,
) -> list[bytes | None]:
    """The path of each (dentry, vfsmount), raw bytes as the kernel would give them to seq_path.

    None where a dentry or mount on the way is not in the dump. Newlines are not escaped here.
    """
    forest = _close(kernel, dentries, mounts, log)
    pairs = list(zip(dentries.tolist(), mounts.tolist(), inodes.tolist(), strict=True))
    numbers = _inode_numbers(kernel, forest, pairs)
    special = {address: kind for kind, symbol in _DNAMES.items() if (address := kernel.symbols.get(symbol)) is not None}
    done: dict[tuple[int, int], bytes | None] = {}
    for dentry, mnt, inode in pairs:
        if (dentry, mnt) not in done:
            done[dentry, mnt] = _path(forest, dentry, mnt, root, special, numbers.get(inode, 0))
    return [done[dentry, mnt] for dentry, mnt, _ in pairs]


# How pseudo file systems spell a name: kind by the symbol of the d_dname operation.
_DNAMES = {
    "simple": "simple_dname",
    "anon_inode": "anon_inodefs_dname",
    "socket": "sockfs_dname",
    "pipe": "pipefs_dname",
    "dmabuf": "dmabuffs_dname",
}


def _path(
    forest: _Forest,
    dentry: int,
    mnt: int,
    root: tuple[int, int] | None,
    special: dict[int, str],
    inode: int,
) -> bytes | None:
    operation = forest.pseudo.get(dentry, 0)
    if operation and not (forest.parent.get(dentry) == dentry == forest.mount_root.get(mnt)):
        return _pseudo_name(special.get(operation, "simple"), forest.name.get(dentry), inode)
    names: list[bytes] = []
    deleted = not forest.hashed.get(dentry, True) and forest.parent.get(dentry) != dentry
    seen: set[tuple[int, int]] = set()
    while root is None or (dentry, mnt) != root:
        if (dentry, mnt) in seen or dentry not in forest.parent or mnt not in forest.mount_root:
            return None
        seen.add((dentry, mnt))
        if dentry == forest.mount_root[mnt]:
            above = forest.mount_parent[mnt]
            if above == mnt:  # the root of this mount namespace
                break
            dentry, mnt = forest.mountpoint[mnt], above
            continue
        parent = forest.parent[dentry]
        if parent == dentry:  # a bind mount's subtree was left behind
            break
        name = forest.name.get(dentry)
        if name is None:
            return None
        names.append(b"/" + name)
        dentry = parent
    path = b"".join(reversed(names)) or b"/"
    return path + b" (deleted)" if deleted else path


def _pseudo_name(kind: str, name: bytes | None, inode: int) -> bytes | None:
    if kind == "socket":
        return b"socket:[%d]" % inode
    if kind == "pipe":
        return b"pipe:[%d]" % inode
    if name is None:
        return None
    if kind == "anon_inode":
        return b"anon_inode:" + name
    if kind == "dmabuf":
        return b"/" + name + b":"
    return b"/" + name + b" (deleted)"


def _close(kernel: Kernel, dentries: NDArray[np.uint64], mounts: NDArray[np.uint64], log: ProblemLog) -> _Forest:
    """Read every dentry and mount that climbing from the given ones can touch."""
    forest = _Forest({}, {}, {}, {}, {}, {}, {})
    embed = kernel.offset("mount", "mnt")
    operations: dict[int, int] = {}
    pending = {"name": np.zeros(0, np.uint64), "length": np.zeros(0, np.int64), "dentry": np.zeros(0, np.uint64)}
    new_dentries = np.unique(dentries[dentries != 0])
    new_mounts = np.unique(mounts[mounts != 0])
    for _ in range(_GENERATIONS):
        if not len(new_dentries) and not len(new_mounts):
            break
        got, ok = kernel.gather("dentry", new_dentries, _DENTRY)
        log.add(View.FILES, Problem.UNREADABLE, 0, new_dentries[~ok])
        here, got = new_dentries[ok], got[ok]
        forest.parent.update(zip(here.tolist(), got["d_parent"].tolist(), strict=True))
        forest.hashed.update(zip(here.tolist(), (got["d_hash.pprev"] != 0).tolist(), strict=True))
        operations.update(zip(here.tolist(), got["d_op"].tolist(), strict=True))
        pending["dentry"] = np.concatenate([pending["dentry"], here])
        pending["name"] = np.concatenate([pending["name"], got["d_name.name"]])
        pending["length"] = np.concatenate([pending["length"], got["d_name.len"].astype(np.int64)])

        at, fine = kernel.gather(
            "mount", new_mounts - np.uint64(embed), ["mnt.mnt_root", "mnt_parent", "mnt_mountpoint"]
        )
        log.add(View.FILES, Problem.UNREADABLE, 0, new_mounts[~fine])
        there, at = new_mounts[fine], at[fine]
        above = at["mnt_parent"] + np.uint64(embed)
        forest.mount_root.update(zip(there.tolist(), at["mnt.mnt_root"].tolist(), strict=True))
        forest.mount_parent.update(zip(there.tolist(), above.tolist(), strict=True))
        forest.mountpoint.update(zip(there.tolist(), at["mnt_mountpoint"].tolist(), strict=True))

        reached = np.unique(np.concatenate([got["d_parent"], at["mnt_mountpoint"]]))
        new_dentries = _unknown(reached, forest.parent)
        new_mounts = _unknown(np.unique(above), forest.mount_root)
    _names(kernel, forest, pending)
    _operations(kernel, forest, operations)
    return forest


def _unknown(addresses: NDArray[np.uint64], known: dict[int, int]) -> NDArray[np.uint64]:
    usable = addresses[kernel.arch.kernel_pointer(addresses)]
    return np.array([one for one in usable.tolist() if one not in known], np.uint64)


def _names(kernel: Kernel, forest: _Forest, pending: Mapping[str, NDArray[np.generic]]) -> None:
    length = np.clip(pending["length"].astype(np.int64), 0, _NAME_MAX)
    dentry, pointer = pending["dentry"].astype(np.uint64), pending["name"].astype(np.uint64)
    for size in np.unique(length).tolist():
        rows = np.flatnonzero(length == size)
        data, ok = kernel.space.gather(pointer[rows], size)
        for row, raw, fine in zip(rows.tolist(), data, ok.tolist(), strict=True):
            # prepend_name stops at a NUL: a name being changed may be shorter than its length.
            forest.name[int(dentry[row])] = raw.tobytes().split(b"\0", 1)[0] if fine else None


def _operations(kernel: Kernel, forest: _Forest, operations: dict[int, int]) -> None:
    tables = np.unique(np.array(list(operations.values()), np.uint64))
    tables = tables[tables != 0]
    got, ok = kernel.gather("dentry_operations", tables, ["d_dname"])
    dname = dict(zip(tables.tolist(), np.where(ok, got["d_dname"], np.uint64(0)).tolist(), strict=True))
    forest.pseudo.update({dentry: dname.get(table, 0) for dentry, table in operations.items()})


def _inode_numbers(kernel: Kernel, forest: _Forest, pairs: list[tuple[int, int, int]]) -> dict[int, int]:
    wanted = np.array(sorted({inode for dentry, _, inode in pairs if forest.pseudo.get(dentry)}), np.uint64)
    got, ok = kernel.gather("inode", wanted, ["i_ino"])
    return dict(zip(wanted[ok].tolist(), got["i_ino"][ok].tolist(), strict=True))


def reader_root(kernel: Kernel, tasks: Tasks) -> tuple[int, int] | None:
    """(dentry, vfsmount) at which paths begin for whoever reads them: the root of pid 1, or of init_task."""
    one = tasks.task[(tasks.pid == 1) & tasks.ok].tolist()
    for task in [*one, kernel.symbols.get("init_task")]:
        if task is None:
            continue
        fs, ok = kernel.gather("task_struct", np.array([task], np.uint64), ["fs"])
        got, fine = kernel.gather("fs_struct", fs["fs"], ["root.dentry", "root.mnt"])
        if ok[0] and fine[0]:
            return int(got["root.dentry"][0]), int(got["root.mnt"][0])
    return None
