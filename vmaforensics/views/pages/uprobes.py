"""Registered uprobes: breakpoints that the kernel itself has put into user code (kernel/events/uprobes.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

UPROBES = np.dtype([("inode", np.uint64), ("offset", np.uint64), ("uprobe", np.uint64)])

_DEPTH = 128  # a red-black tree of 2**64 nodes is no deeper
_MOST = 1 << 20


def read_uprobes(kernel: Kernel) -> tuple[NDArray[np.void], bool]:
    """``(rows, whole)``: every probe in ``uprobes_tree``, by inode and offset (bytes into the file).

    Not whole: the symbol or the structure is unknown, or a node could not be read.
    """
    root = kernel.symbols.get("uprobes_tree")
    members = ("rb_node.rb_left", "rb_node.rb_right", "inode", "offset")
    if root is None or not all(kernel.has("uprobe", name) for name in members):
        return np.zeros(0, UPROBES), False
    base = np.uint64(kernel.offset("uprobe", "rb_node"))
    words, ok = kernel.words(np.array([root], np.uint64), 1)
    whole = bool(ok.all())
    here = words[ok, 0]
    seen = np.zeros(0, np.uint64)
    found = [np.zeros(0, UPROBES)]
    for _ in range(_DEPTH):
        here = here[here != 0]
        fresh = np.setdiff1d(here[kernel_pointer(here)], seen)
        whole &= len(fresh) == len(here)  # a cycle, or no pointer
        seen = np.union1d(seen, fresh)
        if not len(fresh) or len(seen) > _MOST:
            break
        got, ok = kernel.gather("uprobe", fresh - base, members)
        whole &= bool(ok.all())
        rows = np.zeros(int(ok.sum()), UPROBES)
        rows["inode"], rows["offset"] = got["inode"][ok], got["offset"][ok].astype(np.uint64)
        rows["uprobe"] = fresh[ok] - base
        found.append(rows)
        here = np.concatenate([got["rb_node.rb_left"][ok], got["rb_node.rb_right"][ok]])
    else:
        whole = False
    return np.sort(np.concatenate(found), order=["inode", "offset"]), whole and len(seen) <= _MOST
