"""What more is known of objects of some structures: whose they are, their paths, their ranges. Texts are printable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import rows_of, values_at
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.objects.maps import owner_texts, vma_texts
from vmaforensics.views.objects.nodes import find_nodes
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.vmas.files import read_files
from vmaforensics.views.vmas.paths import paths_in_file_system, reader_root
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.columns.types import U64
    from vmaforensics.views.objects.surroundings import Surroundings

_MOST_NAMED = 3
# Members of task_struct that tell whose such an object is.
_OF_TASKS: Final = {
    "signal_struct": "signal",
    "sighand_struct": "sighand",
    "files_struct": "files",
    "fs_struct": "fs",
    "cred": "cred",
    "nsproxy": "nsproxy",
}


def things(surroundings: Surroundings, struct: str, addresses: U64) -> list[str]:
    """What is known of each object of ``struct`` at ``addresses``; "" for nothing, and where the types lack it."""
    try:
        return _told(surroundings, struct, addresses)
    except KernelNotFoundError:
        return [""] * len(addresses)


def _told(surroundings: Surroundings, struct: str, addresses: U64) -> list[str]:
    if struct in _OF_TASKS:
        return _tasks_with(surroundings, _OF_TASKS[struct], addresses)
    known = _KNOWN.get(struct)
    if known is not None:
        return known(surroundings, addresses)
    if surroundings.kernel.has(struct, "vfs_inode.i_ino"):  # the inode of a file system, with its own around it
        return _inodes(surroundings, addresses + np.uint64(surroundings.kernel.offset(struct, "vfs_inode")))
    return [""] * len(addresses)


def _of(struct: str, path: str) -> Callable[[Surroundings, U64], list[str]]:
    """What is known of the VMA or the mm that a member points to."""

    def text(surroundings: Surroundings, addresses: U64) -> list[str]:
        at, _ = surroundings.kernel.gather_member(struct, path + "?", addresses)
        return vma_texts(surroundings, at)

    return text


def _mms(surroundings: Surroundings, addresses: U64) -> list[str]:
    return [f"of {owner}" for owner in owner_texts(surroundings, addresses)]


def task_texts(surroundings: Surroundings, addresses: U64) -> list[str]:
    """``pid 88 (bash)`` for each ``task_struct``, in the list of tasks or not."""
    kernel = surroundings.kernel
    pids, ok = kernel.gather_signed("task_struct", "pid", addresses)
    tgids, _ = kernel.gather_signed("task_struct", "tgid", addresses)
    place = kernel.member("task_struct", "comm")
    comms, _ = kernel.space.gather(addresses + np.uint64(place.offset), place.extent)
    texts = []
    for row in range(len(addresses)):
        pid, tgid = int(pids[row]), int(tgids[row])
        thread = f", thread of {tgid}" if tgid != pid else ""
        texts.append(f"pid {pid} ({printable(comm_of(comms[row].tobytes()))}{thread})" if ok[row] else "")
    return texts


def _tasks_with(surroundings: Surroundings, path: str, addresses: U64) -> list[str]:
    """Which tasks have a pointer to each object."""
    tasks = surroundings.tasks
    pointers, _ = surroundings.kernel.gather_member("task_struct", path + "?", tasks.task)
    texts = []
    for address in addresses.tolist():
        rows = np.flatnonzero(pointers == np.uint64(address))
        named = [f"pid {int(tasks.pid[row])} ({printable(comm_of(tasks.comm[row]))})" for row in rows[:_MOST_NAMED]]
        more = len(rows) - len(named)
        texts.append(f"of {', '.join(named)}" + (f" and {more:,} more" if more else "") if named else "")
    return texts


def _nodes(surroundings: Surroundings, addresses: U64) -> list[str]:
    """Which tree each maple node is in."""
    nodes = find_nodes(surroundings, addresses)
    owners = owner_texts(surroundings, nodes.mm)
    texts = []
    for row in range(len(nodes)):
        if nodes.met[row]:
            kind = "leaf" if nodes.leaf[row] else "inner node"
            texts.append(f"{kind} for {int(nodes.low[row]):x}-{int(nodes.high[row]):x} of {owners[row]}")
        else:
            texts.append(f"not in the tree of {owners[row]}" if nodes.mm[row] else "in no memory map's tree")
    return texts


def _files(surroundings: Surroundings, addresses: U64) -> list[str]:
    kernel = surroundings.kernel
    files = read_files(kernel, addresses, reader_root(kernel, surroundings.tasks), ProblemLog())
    return [_quoted(files.paths[row]) if row >= 0 else "" for row in files.rows_of(addresses).tolist()]


def _dentries(surroundings: Surroundings, addresses: U64) -> list[str]:
    return [_quoted(path) for path in paths_in_file_system(surroundings.kernel, addresses, ProblemLog())]


def _quoted(path: bytes | None) -> str:
    return "" if path is None else printable(path)


def _inodes(surroundings: Surroundings, addresses: U64) -> list[str]:
    """Their number, and the path of one of their names."""
    kernel = surroundings.kernel
    numbers, ok = kernel.gather_member("inode", "i_ino", addresses)
    alias, _ = kernel.gather_member("inode", "i_dentry.first?", addresses)
    named = kernel.arch.kernel_pointer(alias) & np.bool_(kernel.has("dentry", "d_u.d_alias|d_alias"))
    paths = [""] * len(addresses)
    if named.any():
        link = np.uint64(kernel.offset("dentry", "d_u.d_alias|d_alias"))
        for row, text in zip(np.flatnonzero(named).tolist(), _dentries(surroundings, alias[named] - link), strict=True):
            paths[row] = text
    return [
        (f"inode {number}" + (f", {path}" if path else "")) if known else ""
        for number, path, known in zip(numbers.tolist(), paths, ok.tolist(), strict=True)
    ]


def file_of_mapping(surroundings: Surroundings, mappings: U64) -> list[str]:
    """The file whose pages each ``address_space`` holds."""
    hosts, _ = surroundings.kernel.gather_member("address_space", "host", mappings)
    return _inodes(surroundings, hosts)


def vmas_of_anon(surroundings: Surroundings, anon_vmas: U64) -> U64:
    """A VMA that each anon_vma is linked to, the root of its tree; 0 for none."""
    kernel = surroundings.kernel
    if not kernel.has("anon_vma_chain", "rb"):
        return np.zeros(len(anon_vmas), np.uint64)
    root, _ = kernel.gather_member("anon_vma", "rb_root.rb_root.rb_node|rb_root.rb_node", anon_vmas)
    links = np.where(root != 0, root - np.uint64(kernel.offset("anon_vma_chain", "rb")), np.uint64(0))
    vmas, _ = kernel.gather_member("anon_vma_chain", "vma", links)
    return vmas


def _anon_vmas(surroundings: Surroundings, addresses: U64) -> list[str]:
    vmas = vmas_of_anon(surroundings, addresses)
    return [f"linked to {text}" if text else "" for text in vma_texts(surroundings, vmas)]


def _caches(surroundings: Surroundings, addresses: U64) -> list[str]:
    """The name of a kmem_cache."""
    names, _ = surroundings.kernel.gather_member("kmem_cache", "name", addresses)
    return [f"cache {printable(text)}" if text else "" for text in surroundings.kernel.strings(names, 64)]


def _pids(surroundings: Surroundings, addresses: U64) -> list[str]:
    """The number of a struct pid, and who has it."""
    kernel, tasks = surroundings.kernel, surroundings.tasks
    if not kernel.has("pid", "numbers") or not kernel.has("upid", "nr"):
        return [""] * len(addresses)
    first = addresses + np.uint64(kernel.offset("pid", "numbers"))
    numbers, ok = kernel.gather_member("upid", "nr", first)
    order = np.argsort(tasks.pid, kind="stable")
    row = rows_of(tasks.pid[order].astype(np.uint64), numbers)
    row = np.where(row >= 0, values_at(order.astype(np.int64), row), -1)
    return [
        (f"number {number}" + (f" ({printable(comm_of(tasks.comm[at]))})" if at >= 0 else "")) if known else ""
        for number, at, known in zip(numbers.tolist(), row.tolist(), ok.tolist(), strict=True)
    ]


_KNOWN: Final[dict[str, Callable[[Surroundings, U64], list[str]]]] = {
    "vm_area_struct": vma_texts,
    "anon_vma_chain": _of("anon_vma_chain", "vma"),
    "anon_vma": _anon_vmas,
    "mm_struct": _mms,
    "task_struct": task_texts,
    "maple_node": _nodes,
    "file": _files,
    "dentry": _dentries,
    "inode": _inodes,
    "kmem_cache": _caches,
    "pid": _pids,
}
