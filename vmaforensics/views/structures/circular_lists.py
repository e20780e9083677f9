"""Membership in circular lists (``struct list_head``), all elements at once instead of one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U64, Bools
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.kernel.kernel import Kernel

_STEPS = 1 << 10  # each adds what was not known before; almost everything is


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """What :func:`walk_rings` found; arrays of one length, ``node`` ascending."""

    node: U64  # address of the list_head
    linked: Bools  # both neighbours point back to it, and it is not alone
    read: Bools
    whole: bool  # every element was read
    after: I64  # row of the next element; -1 where that is not known

    def of_another(self, head: int) -> Bools:
        """Which elements are on a list that is whole and that ``head`` is not on.

        Where a list is broken, what lies behind the break may be of the same list, and is not held to be of another.
        """
        rows = np.arange(len(self.node))
        broken = ~self.linked | (self.after < 0)
        jump, least = np.where(broken, rows, self.after), rows.copy()
        for _ in range(len(rows).bit_length()):
            least = np.minimum(least, least[jump])
            broken = broken | broken[jump]
            jump = jump[jump]
        own = rows_of(self.node, np.array([head], np.uint64))
        apart: Bools = ~broken & (least != values_at(least, own, -1))
        return apart

    def has(self, nodes: U64) -> Bools:
        """Which of ``nodes`` are linked."""
        return np.isin(nodes, self.node[self.linked])


@table(struct="list_head")
class _Heads(Table):
    node: U64
    read: Bools
    next: U64 = member("next")
    prev: U64 = member("prev")


def walk_rings(kernel: Kernel, starts: U64, log: ProblemLog, *, leads_on: Callable[[U64], Bools] | None = None) -> Ring:
    """Everything on the lists that ``starts`` are on, both ways; what ``leads_on`` denies leads no further.

    Elements known beforehand are read together, so that a list whose elements are mostly known takes a few
    reads; only what nobody knew is stepped over one by one. Ends when nothing new turns up.
    """
    fresh = distinct(starts[kernel.arch.kernel_pointer(starts)])
    parts: list[_Heads] = []
    stopped: list[U64] = [fresh[:0]]  # where what does not lead on leads
    seen: set[int] = set()  # of a list that nobody knew, each step finds an element or two
    for _ in range(_STEPS):
        heads, ok = kernel.gather(_Heads, fresh)
        heads.node[:], heads.read[:] = fresh, ok
        log.add(View.SOURCES, Problem.UNREADABLE, 0, fresh[~ok])
        parts.append(heads)
        seen.update(fresh.tolist())
        # 0 is a list_head never put on a list; LIST_POISON1/2 mark one that was taken off.
        follow = ok if leads_on is None else ok & leads_on(fresh)
        stopped.append(np.concatenate([heads.next[ok & ~follow], heads.prev[ok & ~follow]]))
        around = np.concatenate([heads.next[follow], heads.prev[follow]])
        around = around[kernel.arch.kernel_pointer(around)]
        fresh = np.array(sorted(set(around.tolist()) - seen), np.uint64)
        if not len(fresh):
            break
    log.add(View.SOURCES, Problem.CUT_SHORT, 0, fresh[:1], len(seen))
    heads = _Heads.concatenate(parts)
    heads = heads.sort_by(heads.node)
    before = values_at(heads.next, rows_of(heads.node, heads.prev))
    following = rows_of(heads.node, heads.next)
    after = values_at(heads.prev, following)
    linked = heads.read & (heads.next != heads.node) & (before == heads.node) & (after == heads.node)
    beyond = np.concatenate(stopped)
    beyond = beyond[kernel.arch.kernel_pointer(beyond) & ~np.isin(beyond, heads.node)]
    whole = bool(heads.read.all()) and not len(fresh) and not len(beyond)
    return Ring(node=heads.node, linked=linked, read=heads.read, whole=whole, after=following)


def follow_list(kernel: Kernel, head: int, most: int) -> tuple[U64, bool]:
    """The elements (``list_head``) of the list at ``head``, in order, and whether its end was reached.

    Goes on until the list comes back to its head, to an element it has been at, to what cannot be read, or to
    ``most`` elements.
    """
    found: list[int] = []
    seen = {head}
    at = head
    after: int | None = None
    while len(found) < most:
        after = kernel.space.word(at)
        if after is None or after in seen:
            break
        at = after
        seen.add(at)
        found.append(at)
    places = np.array(found, np.uint64)
    wild = np.flatnonzero(~kernel.arch.kernel_pointer(places))  # asked of all at once, though the first ends the list
    return (places[: wild[0]], False) if len(wild) else (places, after == head)
