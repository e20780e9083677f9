"""Registered uprobes: breakpoints that the kernel itself has put into user code (kernel/events/uprobes.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64
from vmaforensics.views.structures.address_set import AddressSet

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_DEPTH = 128  # a red-black tree of 2**64 nodes is no deeper
_MOST = 1 << 20


@table(struct="uprobe")
class Uprobes(Table):
    """A row is a registered probe, by inode and offset."""

    uprobe: U64  # its address
    inode: U64 = member("inode")
    offset: U64 = member("offset")  # bytes into the file
    left: U64 = member("rb_node.rb_left")
    right: U64 = member("rb_node.rb_right")


class ReadUprobes(NamedTuple):
    """The probes, and whether these are all."""

    probes: Uprobes
    whole: bool


def read_uprobes(kernel: Kernel) -> ReadUprobes:
    """Every probe in ``uprobes_tree``.

    Not whole: the symbol or the structure is unknown, a node could not be read, or the tree leads back into itself.
    """
    root = kernel.symbols.get("uprobes_tree")
    members = ("rb_node.rb_left", "rb_node.rb_right", "inode", "offset")
    if root is None or not all(kernel.has("uprobe", name) for name in members):
        return ReadUprobes(Uprobes.zeros(0), whole=False)
    base = np.uint64(kernel.offset("uprobe", "rb_node"))
    words, ok = kernel.words(np.array([root], np.uint64), 1)
    whole = bool(ok.all())
    here = words[ok, 0]
    seen, found, total = AddressSet(), [Uprobes.zeros(0)], 0
    for _ in range(_DEPTH):
        here = here[here != 0]
        fresh = seen.add(here[kernel.arch.kernel_pointer(here)])
        whole &= len(fresh) == len(here)  # else a cycle, or no pointer
        total += len(fresh)
        if not len(fresh) or total > _MOST:
            break
        rows, ok = kernel.gather(Uprobes, fresh - base)
        rows.uprobe[:] = fresh - base
        whole &= bool(ok.all())
        rows = rows.take(ok)
        found.append(rows)
        here = np.concatenate([rows.left, rows.right])
    else:
        whole = False
    probes = Uprobes.concatenate(found)
    return ReadUprobes(probes.sort_by(probes.inode, probes.offset), whole and total <= _MOST)
