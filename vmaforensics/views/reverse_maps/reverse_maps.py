"""Reverse maps: from files (``i_mmap``) and anonymous pages (anon_vma trees) back to the VMAs that map them.

The kernel keeps them to find every page table entry of a page (mm/interval_tree.c, mm/rmap.c). They lead to VMAs
without asking any index of the memory map, so a VMA that was taken out of its index is still in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, is_in, rows_of, sort_order, values_at
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.reverse_maps import anon_vma_chains, mappings
from vmaforensics.views.reverse_maps.anon_vma_chains import AnonVmaChains, AnonVmas, read_anon_vmas, walk_chains
from vmaforensics.views.reverse_maps.inodes import inode_mappings
from vmaforensics.views.reverse_maps.mappings import Mappings, read_mappings
from vmaforensics.views.slab.homes import VMA, Homes
from vmaforensics.views.structures.address_set import AddressSet, object_pointer
from vmaforensics.views.structures.interval_tree import ANON, FILE, BrokenLinks, IntervalNodes, walk_trees
from vmaforensics.views.view import View
from vmaforensics.views.vmas.files import FileTable, read_files
from vmaforensics.views.vmas.names import vma_names
from vmaforensics.views.vmas.paths import reader_root
from vmaforensics.views.vmas.vmas import Vmas, classify, read_vmas

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks

_ROUNDS = 16  # of new VMAs leading to new trees leading to new VMAs


@dataclass(frozen=True, slots=True, kw_only=True)
class RmapView:
    """Both reverse maps, and every VMA that they or an index view lead to.

    ``vmas`` (ascending) has the rows of ``Views.vmas`` and those of ``strays``, which no index leads to;
    the arrays below it go with its rows. Nodes name their VMA by address.
    """

    mappings: Mappings  # ascending
    file_nodes: IntervalNodes  # tree is an address_space
    anon_vmas: AnonVmas  # ascending
    anon_nodes: IntervalNodes  # tree is an anon_vma, item an anon_vma_chain
    chains: AnonVmaChains
    vmas: Vmas
    mapping: U64  # vm_file->f_mapping; 0 without a file or where it could not be read
    parent_word: U64  # __rb_parent_color of the node in i_mmap, whether the tree leads to it or not
    answered: Bools  # that node and one that it names as parent or child name each other; asked where no tree leads
    torn_nodes: U64  # nodes of trees with a pointer that could not be followed, ascending
    chain_cut: Bools  # the chain could not be followed to its end
    strays: dict[int, bytes]  # VMA that no index leads to: its name
    offsets: dict[str, int]  # member of vm_area_struct that checks point at: its place, bytes

    def vma_rows(self, addresses: U64) -> I64:
        """Row in ``vmas`` of each VMA address, -1 where it is not there."""
        return rows_of(self.vmas.vma, addresses)


def gather_rmap(
    kernel: Kernel, tasks: Tasks, mms: Mms, vmas: Vmas, files: FileTable | None, log: ProblemLog
) -> RmapView:
    """Walk every ``i_mmap`` and every anon_vma tree that files, inodes and VMAs lead to.

    ``vmas`` are those that the indices lead to, ``files`` what they map; ``tasks`` and ``mms`` are asked for the
    names of VMAs beyond those. Raises :class:`KernelNotFoundError` where the kernel's types lack what that takes.
    """
    file_trees = _file_trees(kernel, files, log)
    reached = _follow(kernel, vmas, file_trees.nodes.vma, log)
    named = _strays(kernel, tasks, mms, vmas, reached.vmas, files, log)
    anon = _anon_trees(reached.parts)
    words, known = kernel.gather_member("vm_area_struct", f"{FILE.node}.__rb_parent_color", named.vmas.vma)
    node_at = np.uint64(kernel.offset("vm_area_struct", FILE.node))
    anon_at = np.uint64(kernel.offset("anon_vma_chain", ANON.node))
    _report(log, View.FILE_RMAP, file_trees.broken, file_trees.broken.item, named.vmas)
    _report(log, View.ANON_RMAP, anon.broken, _vmas_of(anon.nodes, anon.broken.item), named.vmas)
    return RmapView(
        mappings=file_trees.mappings,
        file_nodes=file_trees.nodes,
        anon_vmas=anon.anon_vmas,
        anon_nodes=anon.nodes,
        chains=AnonVmaChains.concatenate(part.chains for part in reached.parts),
        vmas=named.vmas,
        mapping=named.mapping,
        parent_word=np.where(known, words, np.uint64(0)),
        answered=_answered(kernel, named, file_trees.nodes, words),
        torn_nodes=distinct(np.concatenate([_of(file_trees.broken) + node_at, _of(anon.broken) + anon_at])),
        chain_cut=np.isin(named.vmas.vma, np.concatenate([part.cut for part in reached.parts])),
        strays=named.names,
        offsets={name: kernel.offset("vm_area_struct", name) for name in ("vm_file", "vm_pgoff")},
    )


class _FileTrees(NamedTuple):
    """Every ``i_mmap``."""

    mappings: Mappings
    nodes: IntervalNodes
    broken: BrokenLinks


def _file_trees(kernel: Kernel, files: FileTable | None, log: ProblemLog) -> _FileTrees:
    """The ``i_mmap`` of every file in use, and of those others that some VMA maps."""
    in_use = files.rows.mapping if files is not None else np.zeros(0, np.uint64)
    known = distinct(in_use[object_pointer(kernel.arch, in_use)])
    others = np.setdiff1d(inode_mappings(kernel, log), known, assume_unique=True)
    rows = Mappings.concatenate(
        [read_mappings(kernel, known, log, mapped=False), read_mappings(kernel, others, log, mapped=True)]
    )
    rows = rows.sort_by(rows.mapping)
    nodes, broken = walk_trees(kernel, FILE, rows.mapping, rows.root, mappings.root_slots(kernel, rows.mapping))
    rows.whole[:] &= ~np.isin(rows.mapping, broken.tree)
    return _FileTrees(rows, nodes, broken)


_COLOUR = np.uint64(3)  # low bits of __rb_parent_color


def _answered(kernel: Kernel, named: _Named, nodes: IntervalNodes, words: U64) -> Bools:
    """Of VMAs that no ``i_mmap`` leads to: does what their node names as its parent lead to it, or a child back?"""
    vmas, struct = named.vmas, "vm_area_struct"
    answered = np.zeros(len(vmas), np.bool_)
    rows = np.flatnonzero(vmas.ok & (named.mapping != 0) & ~is_in(vmas.vma, distinct(nodes.vma)))
    at = np.uint64(kernel.offset(struct, FILE.node))
    own = vmas.vma[rows] + at
    with np.errstate(over="ignore"):
        parent = (words[rows] & ~_COLOUR) - at
        for child in (f"{FILE.node}.rb_left", f"{FILE.node}.rb_right"):
            down, ok = kernel.gather_member(struct, child, parent)
            answered[rows] |= ok & (down == own)
            below, _ = kernel.gather_member(struct, child, vmas.vma[rows])
            up, ok = kernel.gather_member(struct, f"{FILE.node}.__rb_parent_color", below - at)
            answered[rows] |= ok & (below != 0) & ((up & ~_COLOUR) == own)
    return answered


def _of(broken: BrokenLinks) -> U64:
    """The items that hold the pointers."""
    items: U64 = broken.item[broken.item != 0]
    return items


class _Part(NamedTuple):
    """What the chains of some VMAs lead to for the first time."""

    chains: AnonVmaChains
    cut: U64
    anon_vmas: AnonVmas
    nodes: IntervalNodes
    broken: BrokenLinks


class _Reached(NamedTuple):
    """All VMAs that reverse maps and indices lead to, ascending, and what was met on the way."""

    vmas: Vmas
    parts: list[_Part]


def _follow(kernel: Kernel, vmas: Vmas, others: U64, log: ProblemLog) -> _Reached:
    """Walk the chains of ``vmas`` and the trees they lead to, those of the VMAs in these, and so on.

    ``others`` are addresses of VMAs that file trees hold.
    """
    links, objects = AddressSet(), AddressSet()
    fresh, parts = vmas, []
    for _ in range(_ROUNDS):
        parts.append(_first_time(kernel, fresh, links, objects, log))
        found = distinct(others, parts[-1].nodes.vma)
        found = found[object_pointer(kernel.arch, found)]
        found = found[kernel.shared(Homes).admits(VMA, found) | is_in(found, vmas.vma)]
        fresh = read_vmas(kernel, found[~is_in(found, vmas.vma)], log)
        others = others[:0]
        if not len(fresh):
            break
        vmas = Vmas.concatenate([vmas, fresh])
        vmas = vmas.sort_by(vmas.vma)
    else:
        log.add(View.ANON_RMAP, Problem.CUT_SHORT, 0, fresh.vma)
    return _Reached(vmas, parts)


def _first_time(kernel: Kernel, vmas: Vmas, links: AddressSet, objects: AddressSet, log: ProblemLog) -> _Part:
    """Walk the chains of ``vmas``, and the trees they lead to except for those of anon_vmas in ``objects``."""
    chains, cut = walk_chains(kernel, vmas.vma[vmas.ok], vmas.mm[vmas.ok], links, log)
    wanted = np.concatenate([chains.anon_vma, vmas.anon_vma])
    rows = read_anon_vmas(kernel, wanted[wanted != 0], objects, log)
    slots = anon_vma_chains.root_slots(kernel, rows.anon_vma)
    nodes, broken = walk_trees(kernel, ANON, rows.anon_vma, rows.tree, slots)
    return _Part(chains, cut, rows, nodes, broken)


class _AnonTrees(NamedTuple):
    """Every anon_vma tree."""

    anon_vmas: AnonVmas
    nodes: IntervalNodes
    broken: BrokenLinks


def _anon_trees(parts: list[_Part]) -> _AnonTrees:
    """The anon_vmas and trees of all ``parts`` in one."""
    base = 0
    for part in parts:
        for column in (part.nodes.parent, part.nodes.left, part.nodes.right):
            column[column >= 0] += base
        base += len(part.nodes)
    broken = BrokenLinks.concatenate(part.broken for part in parts)
    rows = AnonVmas.concatenate(part.anon_vmas for part in parts)
    rows = rows.sort_by(rows.anon_vma)
    rows.whole[:] &= ~np.isin(rows.anon_vma, broken.tree)
    # The rwsem of its root guards the tree (anon_vma_lock_write, include/linux/rmap.h).
    rows.held[:] = values_at(rows.held, rows_of(rows.anon_vma, rows.root))
    return _AnonTrees(rows, IntervalNodes.concatenate(part.nodes for part in parts), broken)


class _Named(NamedTuple):
    """All VMAs with what they map, and the names of those that no index leads to."""

    vmas: Vmas
    mapping: U64
    names: dict[int, bytes]


def _strays(
    kernel: Kernel, tasks: Tasks, mms: Mms, known: Vmas, vmas: Vmas, files: FileTable | None, log: ProblemLog
) -> _Named:
    """Decode what those of ``vmas`` map that are not ``known``; their ``file_row`` is that of ``files``."""
    if files is None:
        mapping = np.zeros(len(vmas), np.uint64)
    else:
        mapping = values_at(files.rows.mapping, files.rows_of(vmas.file))
    new = np.flatnonzero(rows_of(known.vma, vmas.vma) < 0)
    if not len(new):
        return _Named(vmas, mapping, {})
    extra = vmas.take(new)
    more = read_files(kernel, extra.file, reader_root(kernel, tasks), log)
    classify(kernel, extra, more)
    mapping[new] = values_at(more.rows.mapping, extra.file_row)
    names = dict(zip(extra.vma.tolist(), vma_names(kernel, extra, mms, more), strict=True))
    vmas.file_row[new] = files.rows_of(extra.file) if files is not None else -1
    vmas.kind[new] = extra.kind
    return _Named(vmas, mapping, names)


def _vmas_of(nodes: IntervalNodes, items: U64) -> U64:
    """The VMA that each item of a node leads to; 0 where there is no such node."""
    order = sort_order(nodes.item)
    return values_at(nodes.vma[order], rows_of(nodes.item[order], items))


def _report(log: ProblemLog, view: View, broken: BrokenLinks, owners: U64, vmas: Vmas) -> None:
    """Problem rows, each under the address space of the VMA in ``owners`` whose pointer it was."""
    mm = values_at(vmas.mm, rows_of(vmas.vma, owners))
    for problem in distinct(broken.problem).tolist():
        which = broken.problem == problem
        log.add(view, Problem(problem), mm[which], broken.slot[which], broken.value[which])
