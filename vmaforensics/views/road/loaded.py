"""Modules by every record that the kernel keeps of them (kernel/module/main.c, tree_lookup.c, kernel/params.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import member, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.structures.circular_lists import follow_list
from vmaforensics.views.system.modules import STATES, NamedModules

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST: Final = 1 << 14
_DEEPEST: Final = 127  # of a red-black tree with 2**64 nodes
_COPIES: Final = 2  # trees of a latch_tree_root


@table(struct="module")
class Loaded(NamedModules):
    """Modules by address."""

    listed: Bools  # on the list ``modules``
    in_tree: Bools  # in the tree by address, which stack traces and faults ask
    in_sysfs: Bools  # /sys/module/NAME
    after: U64 = member("list.next")
    own: U64 = member("mkobj.mod")  # its own address

    def credible(self) -> Bools:
        """Which rows can be a module: they name themselves, and have a state and a name."""
        named: Bools = (self.own == self.module) & (self.state < len(STATES)) & self.name[:, :1].any(axis=1)
        return named


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModules:
    """Every module that a record leads to, and which records could be read to their ends."""

    modules: Loaded
    list_whole: bool
    tree_whole: bool
    sysfs_whole: bool


def find_loaded(kernel: Kernel) -> LoadedModules:
    """The modules of the list, of the tree by address, and of /sys/module."""
    listed, list_whole = _listed(kernel)
    in_tree, tree_whole = _in_tree(kernel)
    in_sysfs, sysfs_whole = _in_sysfs(kernel)
    modules = read_loaded(kernel, distinct(np.concatenate([listed, in_tree, in_sysfs])))
    modules.listed[:] = np.isin(modules.module, listed)
    modules.in_tree[:] = np.isin(modules.module, in_tree)
    modules.in_sysfs[:] = np.isin(modules.module, in_sysfs)
    return LoadedModules(modules=modules, list_whole=list_whole, tree_whole=tree_whole, sysfs_whole=sysfs_whole)


def read_loaded(kernel: Kernel, addresses: U64) -> Loaded:
    """The ``struct module`` at each address; those that cannot be read are left out."""
    if kernel.types.struct("module") is None:
        return Loaded.zeros(0)
    rows, ok = kernel.gather(Loaded, addresses)
    rows.module[:] = addresses
    return rows.take(ok)


def _listed(kernel: Kernel) -> tuple[U64, bool]:
    head = kernel.symbols.get("modules")
    if head is None or not kernel.has("module", "list"):
        return np.zeros(0, np.uint64), False
    places, whole = follow_list(kernel, head, _MOST)
    return places - np.uint64(kernel.offset("module", "list")), whole


def _in_sysfs(kernel: Kernel) -> tuple[U64, bool]:
    """``module_kset`` has parts of the kernel itself too: those have no ``mod``."""
    kset = kernel.variable("module_kset", 8)
    if not kset or not kernel.has("module_kobject", "kobj.entry") or not kernel.has("kset", "list"):
        return np.zeros(0, np.uint64), False
    places, whole = follow_list(kernel, kset + kernel.offset("kset", "list"), _MOST)
    modules, ok = kernel.gather_member(
        "module_kobject", "mod", places - np.uint64(kernel.offset("module_kobject", "kobj.entry"))
    )
    return distinct(modules[kernel.arch.kernel_pointer(modules)]), whole and bool(ok.all())


def _in_tree(kernel: Kernel) -> tuple[U64, bool]:
    """Every module in both copies of ``mod_tree``; the members are those of ``struct mod_tree_node``."""
    root = kernel.symbols.get("mod_tree")
    members = (("mod_tree_root", "root.tree"), ("mod_tree_node", "node.node"), ("latch_tree_node", "node"))
    if root is None or not all(kernel.has(*path) for path in members):
        return np.zeros(0, np.uint64), False
    heads = root + kernel.offset("mod_tree_root", "root.tree")
    found, whole = [np.zeros(0, np.uint64)], True
    for copy in range(_COPIES):
        words, ok = kernel.words(np.array([heads + copy * kernel.sizeof("rb_root")], np.uint64), 1)
        link = kernel.offset("mod_tree_node", "node.node") + copy * kernel.sizeof("rb_node")
        nodes, tree_whole = _nodes(kernel, words[:, 0])
        modules, read = kernel.gather_member("mod_tree_node", "mod", nodes - np.uint64(link))
        found.append(modules[read & kernel.arch.kernel_pointer(modules)])
        whole &= bool(ok[0]) and tree_whole and bool(read.all())
    return distinct(np.concatenate(found)), whole


def _nodes(kernel: Kernel, frontier: U64) -> tuple[U64, bool]:
    """Every ``rb_node`` of a tree, a level of it with each gather, and was it read whole?"""
    seen, whole = np.zeros(0, np.uint64), True
    frontier = frontier[frontier != 0]
    for _ in range(_DEEPEST):
        usable = kernel.arch.kernel_pointer(frontier) & ~np.isin(frontier, seen)
        whole &= bool(usable.all())
        frontier = frontier[usable]
        if not len(frontier) or len(seen) > _MOST:
            break
        left, ok = kernel.gather_member("rb_node", "rb_left", frontier)
        right, ok_right = kernel.gather_member("rb_node", "rb_right", frontier)
        whole &= bool((ok & ok_right).all())
        seen = distinct(seen, frontier[ok & ok_right])
        below = np.concatenate([left[ok], right[ok_right]])
        frontier = distinct(below[below != 0])
    return seen, whole and not len(frontier)
