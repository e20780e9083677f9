"""Reverse maps: from files (``i_mmap``) and anonymous pages (anon_vma trees) back to the areas that map them.

The kernel keeps them to find every page table entry of a page (mm/interval_tree.c, mm/rmap.c). They lead to areas
without asking any index of the memory map, so an area that was taken out of its index still hangs in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.reverse_maps.anon_vma_chains import ANON_VMAS, CHAINS, read_anon_vmas, walk_chains
from vmaforensics.views.reverse_maps.mappings import Seen, inode_mappings, plausible, read_mappings
from vmaforensics.views.structures.interval_tree import ANON, BROKEN, FILE, NODES, walk_trees
from vmaforensics.views.view import View
from vmaforensics.views.vmas.files import read_files
from vmaforensics.views.vmas.names import vma_names
from vmaforensics.views.vmas.paths import reader_root
from vmaforensics.views.vmas.vmas import Vmas, classify, read_vmas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

_ROUNDS = 16  # of new areas leading to new trees leading to new areas


@dataclass(frozen=True, slots=True, kw_only=True)
class RmapView:
    """Both reverse maps, and every area that they or an index view lead to.

    ``areas`` (ascending) has the rows of ``Views.vmas`` and those of ``strays``, which no index
    view led to; the arrays below it go with its rows. Nodes name their area by address.
    """

    mappings: NDArray[np.void]  # dtype MAPPINGS, ascending
    file_nodes: NDArray[np.void]  # dtype NODES; tree is an address_space
    anon_vmas: NDArray[np.void]  # dtype ANON_VMAS, ascending
    anon_nodes: NDArray[np.void]  # dtype NODES; tree is an anon_vma, item an anon_vma_chain
    chains: NDArray[np.void]  # dtype CHAINS
    areas: Vmas
    mapping: NDArray[np.uint64]  # vm_file->f_mapping; 0 without a file or where it could not be read
    chain_cut: NDArray[np.bool_]  # the chain could not be followed to its end
    strays: dict[int, bytes]  # VMA that no index view led to: its name
    offsets: dict[str, int]  # member of vm_area_struct that checks point at: its place, bytes

    def area_rows(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row in ``areas`` of each VMA address, -1 where it is not there."""
        return rows_of(self.areas["vma"], addresses)


def rows_of(known: NDArray[np.uint64], addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Position of each address in the ascending ``known``, -1 where it is not there."""
    if not len(known):
        return np.full(len(addresses), -1, np.int64)
    row = np.minimum(np.searchsorted(known, addresses), len(known) - 1)
    return np.where(known[row] == addresses, row, -1)


def gather_rmap(kernel: Kernel, views: Views, log: ProblemLog) -> RmapView:
    """Walk every ``i_mmap`` and every anon_vma tree that files, inodes and areas lead to.

    Raises :class:`KernelNotFoundError` where the kernel's types lack what that takes.
    """
    files = views.files.rows if views.files is not None else None
    in_use = files["mapping"][plausible(files["mapping"])] if files is not None else np.zeros(0, np.uint64)
    known = np.unique(in_use)
    others = np.setdiff1d(inode_mappings(kernel, log), known, assume_unique=True)
    mappings = np.concatenate(
        [read_mappings(kernel, known, log, mapped=False), read_mappings(kernel, others, log, mapped=True)]
    )
    mappings = mappings[np.argsort(mappings["mapping"])]
    at = np.uint64(kernel.offset("address_space", "i_mmap.rb_root.rb_node"))
    file_nodes, torn = walk_trees(kernel, FILE, mappings["mapping"], mappings["root"], mappings["mapping"] + at)
    mappings["whole"] &= ~np.isin(mappings["mapping"], torn["tree"])

    found = _Anonymous(kernel, log)
    areas = views.vmas
    strays: dict[int, bytes] = {}
    fresh = areas
    led = file_nodes["vma"]
    for _ in range(_ROUNDS):
        led = np.unique(np.concatenate([led, found.follow(fresh)]))
        led = led[plausible(led)]
        fresh = read_vmas(kernel, np.setdiff1d(led, areas["vma"], assume_unique=True), log)
        led = led[:0]
        if not len(fresh):
            break
        areas = Vmas.concatenate([areas, fresh])
        areas = areas.sort_by(areas.vma)
    else:
        log.add(View.ANON_RMAP, Problem.CUT_SHORT, 0, fresh["vma"])
    new = rows_of(views.vmas["vma"], areas["vma"]) < 0
    mapping = np.zeros(len(areas), np.uint64)
    if files is not None:
        row = views.files.rows_of(areas["file"]) if views.files is not None else np.zeros(0, np.int64)
        mapping = np.where(row >= 0, files["mapping"][row], np.uint64(0)) if len(files) else mapping
    if new.any():
        extra = areas.take(new)
        more = read_files(kernel, extra["file"], reader_root(kernel, views.tasks), log)
        classify(kernel, extra, more)
        row = more.rows_of(extra["file"])
        if len(more.rows):
            mapping[new] = np.where(row >= 0, more.rows["mapping"][row], np.uint64(0))
        strays = dict(zip(extra["vma"].tolist(), vma_names(kernel, extra, views.mms, more), strict=True))
        extra.file_row[:] = views.files.rows_of(extra.file) if views.files is not None else -1
        areas.file_row[new], areas.kind[new] = extra.file_row, extra.kind
    anon_nodes, rent = found.nodes(), found.torn()
    anon_vmas = found.anon_vmas()
    anon_vmas["whole"] &= ~np.isin(anon_vmas["anon_vma"], rent["tree"])
    root = rows_of(anon_vmas["anon_vma"], anon_vmas["root"])
    if len(root):
        anon_vmas["held"] = np.where(root >= 0, anon_vmas["held"][root], False)
    _report(log, View.FILE_RMAP, torn, torn["item"], areas)
    _report(log, View.ANON_RMAP, rent, _vma_of(anon_nodes, rent["item"]), areas)
    return RmapView(
        mappings=mappings,
        file_nodes=file_nodes,
        anon_vmas=anon_vmas,
        anon_nodes=anon_nodes,
        chains=found.chains(),
        areas=areas,
        mapping=mapping,
        chain_cut=np.isin(areas["vma"], found.cut()),
        strays=strays,
        offsets={name: kernel.offset("vm_area_struct", name) for name in ("vm_file", "vm_pgoff")},
    )


class _Anonymous:
    """What chains and anon_vma trees have led to so far."""

    def __init__(self, kernel: Kernel, log: ProblemLog) -> None:
        self._kernel, self._log = kernel, log
        self._links, self._objects = Seen(), Seen()
        self._chains = [np.zeros(0, CHAINS)]
        self._anon_vmas = [np.zeros(0, ANON_VMAS)]
        self._nodes = [np.zeros(0, NODES)]
        self._torn = [np.zeros(0, BROKEN)]
        self._cut = [np.zeros(0, np.uint64)]

    def follow(self, vmas: Vmas) -> NDArray[np.uint64]:
        """Walk the chains of ``vmas`` and the trees they lead to for the first time; the VMAs in those."""
        kernel = self._kernel
        chains, cut = walk_chains(kernel, vmas, self._links, self._log)
        wanted = np.concatenate([chains["anon_vma"], vmas["anon_vma"]])
        anon_vmas = read_anon_vmas(kernel, wanted[wanted != 0], self._objects, self._log)
        at = np.uint64(kernel.offset("anon_vma", "rb_root.rb_root.rb_node"))
        nodes, torn = walk_trees(kernel, ANON, anon_vmas["anon_vma"], anon_vmas["tree"], anon_vmas["anon_vma"] + at)
        base = sum(map(len, self._nodes))
        for name in ("parent", "left", "right"):
            nodes[name][nodes[name] >= 0] += base
        self._chains.append(chains)
        self._cut.append(cut)
        self._anon_vmas.append(anon_vmas)
        self._nodes.append(nodes)
        self._torn.append(torn)
        return nodes["vma"]

    def chains(self) -> NDArray[np.void]:
        return np.concatenate(self._chains)

    def cut(self) -> NDArray[np.uint64]:
        return np.concatenate(self._cut)

    def anon_vmas(self) -> NDArray[np.void]:
        rows = np.concatenate(self._anon_vmas)
        return rows[np.argsort(rows["anon_vma"])]

    def nodes(self) -> NDArray[np.void]:
        return np.concatenate(self._nodes)

    def torn(self) -> NDArray[np.void]:
        return np.concatenate(self._torn)


def _vma_of(nodes: NDArray[np.void], items: NDArray[np.uint64]) -> NDArray[np.uint64]:
    order = np.argsort(nodes["item"], kind="stable")
    row = rows_of(nodes["item"][order], items)
    if not len(nodes):
        return np.zeros(len(items), np.uint64)
    return np.where(row >= 0, nodes["vma"][order][row], np.uint64(0))


def _report(log: ProblemLog, view: View, torn: NDArray[np.void], vmas: NDArray[np.uint64], areas: Vmas) -> None:
    """Problem rows, each under the address space of the area whose pointer it was."""
    row = rows_of(areas["vma"], vmas)
    mm = np.where(row >= 0, areas["mm"][row], np.uint64(0)) if len(areas) else np.zeros(len(torn), np.uint64)
    for problem in np.unique(torn["problem"]).tolist():
        mine = torn["problem"] == problem
        log.add(view, Problem(problem), mm[mine], torn["slot"][mine], torn["value"][mine])
