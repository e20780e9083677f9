"""The memory map of one process, read for the addresses that are asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import covering_rows, distinct, rows_of
from vmaforensics.views.indices.entries import union_of
from vmaforensics.views.indices.maple import walk_maple
from vmaforensics.views.indices.rbtree import walk_rbtree
from vmaforensics.views.objects.surroundings import owner_of
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.mms import Mms
from vmaforensics.views.processes.tasks import PF_EXITING
from vmaforensics.views.vmas.files import read_files
from vmaforensics.views.vmas.names import vma_names
from vmaforensics.views.vmas.paths import reader_root
from vmaforensics.views.vmas.vmas import classify, read_vmas
from vmaforensics.words.permissions import vma_permissions
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.indices.maple_nodes import MapleNodes
    from vmaforensics.views.objects.surroundings import Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """What the index of an address space holds."""

    entries: IndexEntries  # by mm and start
    nodes: MapleNodes | None  # None: the kernel has no maple tree


def read_map(surroundings: Surroundings, mm: int) -> MemoryMap:
    """The map of the ``mm_struct`` at ``mm``, whoever has it; empty where it cannot be read."""
    return read_maps(surroundings, np.array([mm], np.uint64))


def read_maps(surroundings: Surroundings, mms: U64) -> MemoryMap:
    """The maps of several, one behind the other."""
    kernel, log = surroundings.kernel, ProblemLog()
    rows = mm_rows(surroundings, mms)
    found = []
    nodes = None
    if (rbtree := walk_rbtree(kernel, rows, log)) is not None:
        found.append(rbtree.entries)
    if (maple := walk_maple(kernel, rows, log)) is not None:
        found.append(maple.entries)
        nodes = maple.nodes
    entries = union_of(found)
    if rbtree is not None and len(entries):  # it has no bounds of its own
        vmas = read_vmas(kernel, entries.vma, log)
        at = rows_of(vmas.vma, entries.vma)
        entries = entries.replace(start=vmas.start[at], end=vmas.end[at])
        entries = entries.sort_by(entries.mm, entries.start)
    return MemoryMap(entries=entries, nodes=nodes)


def vmas_at(of: MemoryMap, addresses: U64) -> U64:
    """The VMA of a single map whose range holds each user address; 0 for none."""
    row = covering_rows(of.entries.start, of.entries.end, addresses)
    return np.where(row >= 0, of.entries.vma[np.maximum(row, 0)] if len(of.entries) else 0, 0).astype(np.uint64)


def users_of(surroundings: Surroundings, addresses: U64) -> list[U64]:
    """The VMAs of all processes whose range holds each user address."""
    mms = distinct(surroundings.tasks.mm)
    entries = read_maps(surroundings, mms[mms != 0]).entries
    return [entries.vma[(entries.start <= at) & (at < entries.end)] for at in addresses]


def mm_rows(surroundings: Surroundings, mms: U64) -> Mms:
    """A row for each of ``mms``, which need not be any process's; what depends on the CPU is left out."""
    rows, ok = surroundings.kernel.gather(Mms, mms)
    rows.mm[:], rows.ok[:] = mms, ok
    return rows


def vma_texts(surroundings: Surroundings, vmas: U64) -> list[str]:
    """``start-end rwxp name of pid 88 (bash)`` for each of ``vmas``; "" where it cannot be read."""
    kernel, log = surroundings.kernel, ProblemLog()
    rows = read_vmas(kernel, vmas, log)
    mms = mm_rows(surroundings, distinct(rows.mm[kernel.arch.kernel_pointer(rows.mm)]))
    files = read_files(kernel, rows.file, reader_root(kernel, surroundings.tasks), log)
    classify(kernel, rows, files)
    names = vma_names(kernel, rows, mms, files)
    owners = owner_texts(surroundings, rows.mm)
    texts = []
    for row in rows_of(rows.vma, vmas).tolist():
        if not rows.ok[row]:
            texts.append("")
            continue
        name = printable(names[row]) or "anonymous"
        permissions = vma_permissions(int(rows.flags[row]))
        whose = f" of {owners[row]}" if rows.mm[row] else ", vm_mm is NULL"
        texts.append(f"{int(rows.start[row]):x}-{int(rows.end[row]):x} {permissions} {name}{whose}")
    return texts


def owner_texts(surroundings: Surroundings, mms: U64) -> list[str]:
    """Whose each mm is: ``pid 88 (bash)``."""
    tasks = surroundings.tasks
    texts = []
    for mm, row in zip(mms.tolist(), owner_of(tasks, mms).tolist(), strict=True):
        if row >= 0:
            gone = ", exiting" if int(tasks.mm[row]) != mm and int(tasks.flags[row]) & PF_EXITING else ""
            texts.append(f"pid {int(tasks.tgid[row])} ({printable(comm_of(tasks.comm[row]))}){gone}")
        else:
            texts.append(f"mm {mm:#x}, which no process has" if mm else "no mm")
    return texts
