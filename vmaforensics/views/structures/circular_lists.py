"""Membership in circular lists (``struct list_head``), all elements at once instead of one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

_STEPS = 1 << 10  # each adds what was not known before; almost everything is


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """What :func:`walk_rings` found; arrays of one length, ``node`` ascending."""

    node: NDArray[np.uint64]  # address of the list_head
    linked: NDArray[np.bool_]  # both neighbours point back to it, and it is not alone
    read: NDArray[np.bool_]
    whole: bool  # every element was read

    def has(self, nodes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of ``nodes`` are linked."""
        return np.isin(nodes, self.node[self.linked])


def walk_rings(kernel: Kernel, starts: NDArray[np.uint64], log: ProblemLog) -> Ring:
    """Everything on the lists that ``starts`` are on, both ways.

    Elements known beforehand are read together, so that a list whose elements are mostly known takes a few
    reads; only what nobody knew is stepped over one by one. Ends when nothing new turns up.
    """
    fresh = np.unique(starts[kernel_pointer(starts)])
    nodes, nexts, prevs, reads = ([np.zeros(0, np.uint64)] for _ in range(4))
    seen = np.zeros(0, np.uint64)
    whole = True
    for _ in range(_STEPS):
        words, ok = kernel.words(fresh, 2)
        log.add(View.SOURCES, Problem.UNREADABLE, 0, fresh[~ok])
        whole &= bool(ok.all())
        nodes.append(fresh)
        nexts.append(words[:, 0])
        prevs.append(words[:, 1])
        reads.append(ok.astype(np.uint64))
        seen = np.union1d(seen, fresh)
        # 0 is a list_head never put on a list; LIST_POISON1/2 mark one that was taken off.
        around = np.unique(words[ok].reshape(-1))
        fresh = np.setdiff1d(around[kernel_pointer(around)], seen)
        if not len(fresh):
            break
    if len(fresh):
        log.add(View.SOURCES, Problem.CUT_SHORT, 0, fresh[:1], len(seen))
        whole = False
    node = np.concatenate(nodes)
    order = np.argsort(node, kind="stable")
    node = node[order]
    after, before = np.concatenate(nexts)[order], np.concatenate(prevs)[order]
    read = np.concatenate(reads)[order] != 0
    linked = read & (after != node) & (_of(node, before, after) == node) & (_of(node, after, before) == node)
    return Ring(node=node, linked=linked, read=read, whole=whole)


def _of(node: NDArray[np.uint64], words: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The word of each ``wanted`` node; 0 where it is unknown."""
    if not len(node):
        return np.zeros(len(wanted), np.uint64)
    at = np.minimum(np.searchsorted(node, wanted), len(node) - 1)
    return np.where(node[at] == wanted, words[at], np.uint64(0))
