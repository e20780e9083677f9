"""The ``struct address_space`` of files: the root of the tree of VMAs that map each (``i_mmap``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import ADDRESS_SPACE, Homes
from vmaforensics.views.structures.rwsem import write_held
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_ROOT = "i_mmap.rb_root.rb_node"


@table(struct="address_space")
class Mappings(Table):
    """One row per address_space whose ``i_mmap`` was looked at, ascending."""

    mapping: U64  # its address
    ok: Bools
    root: U64 = member(_ROOT)  # 0: no VMA maps the file
    leftmost: U64 = member("i_mmap.rb_leftmost?")  # rb_node that the tree is said to begin with; 0 for none
    whole: Bools  # every node of i_mmap was read
    held: Bools  # somebody held i_mmap_rwsem for writing


def read_mappings(kernel: Kernel, addresses: U64, log: ProblemLog, *, mapped: bool) -> Mappings:
    """The address spaces at the ascending ``addresses``; ``whole`` where readable.

    With ``mapped``, only those that some VMA maps; unreadable ones are left out then. Nothing is read where the
    allocator says that there is none.
    """
    stale = kernel.shared(Homes).strangers(ADDRESS_SPACE, addresses)
    log.add(View.FILE_RMAP, Problem.STALE, 0, addresses[stale], addresses[stale])
    if mapped:
        addresses, stale = addresses[~stale], np.zeros(int((~stale).sum()), np.bool_)
    if mapped:
        root, ok = kernel.gather_member("address_space", _ROOT, addresses)
        addresses, stale = addresses[ok & (root != 0)], stale[ok & (root != 0)]
    rows, ok = kernel.gather(Mappings, addresses)
    log.add(View.FILE_RMAP, Problem.UNREADABLE, 0, addresses[~ok & ~stale])
    rows = rows.take_or_fill(np.where(stale, -1, np.arange(len(rows))))
    rows.mapping[:] = addresses
    rows.ok[:] = rows.whole[:] = ok & ~stale
    rows.held[:] = ~stale & write_held(kernel, "address_space", addresses, "i_mmap_rwsem")
    return rows


def root_slots(kernel: Kernel, mappings: U64) -> U64:
    """Where each address_space keeps the root of its ``i_mmap``."""
    slots: U64 = mappings + np.uint64(kernel.offset("address_space", _ROOT))
    return slots
