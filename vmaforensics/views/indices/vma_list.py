"""The ``vm_next`` list of VMAs, ``mm->mmap``, up to 6.0.

A list has to be followed, but it need not be *read* one element at a time: the successors of all known
VMAs are read together, over and over until nothing new turns up, and the following is done in memory.
Handing in the tree's VMAs to begin with is a matter of speed only: what counts is what the list leads to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms


def walk_list(kernel: Kernel, mms: Mms, hint: NDArray[np.uint64], log: ProblemLog) -> IndexEntries | None:
    """Every element of every list, in list order, with ``start`` and ``end`` 0.

    ``hint`` are addresses of VMAs known from elsewhere. None where the kernel has no ``vm_next``.
    """
    if not kernel.has("vm_area_struct", "vm_next"):
        return None
    head_at = np.uint64(kernel.offset("mm_struct", "mmap"))
    next_at = np.uint64(kernel.offset("vm_area_struct", "vm_next"))
    good = mms.take(mms.ok)
    known, after, ok = _closure(kernel, np.concatenate([hint, good.mmap]))
    if not len(known):
        return IndexEntries.zeros(0)
    count = len(known)
    # Row of each VMA's successor; `count` stands for "the list ends or breaks here".
    step = np.minimum(np.searchsorted(known, after), count - 1)
    follows = ok & (after != 0) & (known[step] == after)
    successor = np.append(np.where(follows, step, count), count)

    first = np.minimum(np.searchsorted(known, good.mmap), count - 1)
    begins = known[first] == good.mmap
    owner = np.full(count + 1, -1, np.int64)
    rank = np.zeros(count + 1, np.int64)
    _follow(successor, first[begins], np.flatnonzero(begins), owner, rank)

    member = np.flatnonzero(owner[:count] >= 0)
    rows = IndexEntries.zeros(len(member))
    rows.mm[:] = good.mm[owner[member]]
    rows.vma[:] = known[member]
    rows.order[:] = rank[member]
    # The word that led here: vm_next of the predecessor in this list, or mm->mmap.
    predecessor = np.full(count + 1, -1, np.int64)
    linked = member[owner[successor[member]] == owner[member]]
    forward = linked[rank[successor[linked]] == rank[linked] + 1]
    predecessor[successor[forward]] = forward
    before = predecessor[member]
    rows.slot[:] = np.where(before >= 0, known[before] + next_at, rows.mm + head_at)

    _problems(log, good, rows, member, known, after, ok, successor, owner, rank, next_at, head_at, begins)
    return rows.sort_by(rows.mm, rows.order)


def _closure(
    kernel: Kernel, start: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
    """(addresses, vm_next, readable) of every VMA that ``start`` leads to; sorted by address."""
    known = np.zeros(0, np.uint64)
    after = np.zeros(0, np.uint64)
    ok = np.zeros(0, np.bool_)
    fresh = np.unique(start[kernel_pointer(start) & ((start & np.uint64(7)) == 0)])
    while len(fresh):
        got, fine = kernel.gather("vm_area_struct", fresh, ["vm_next"])
        known = np.concatenate([known, fresh])
        after = np.concatenate([after, got["vm_next"]])
        ok = np.concatenate([ok, fine])
        sort = np.argsort(known)
        known, after, ok = known[sort], after[sort], ok[sort]
        wanted = np.unique(got["vm_next"][fine])
        wanted = wanted[kernel_pointer(wanted) & ((wanted & np.uint64(7)) == 0)]
        fresh = np.setdiff1d(wanted, known, assume_unique=True)
    return known, after, ok


def _follow(
    successor: NDArray[np.int64],
    first: NDArray[np.intp],
    mm: NDArray[np.intp],
    owner: NDArray[np.int64],
    rank: NDArray[np.int64],
) -> None:
    """Give every row that a list reaches its list and its position, by doubling: after k rounds the first
    2**k elements of every list are placed, and ``jump`` leads 2**k elements on. A row that two lists
    reach belongs to the one that reaches it in fewer steps, or comes first."""
    end = len(successor) - 1
    jump = successor
    here = first.astype(np.int64)
    who = mm.astype(np.int64)
    _, once = np.unique(here, return_index=True)
    owner[here[once]], rank[here[once]] = who[once], 0
    length = 1
    while length <= end:
        placed = np.flatnonzero(owner[:end] >= 0)
        target = jump[placed]
        into = (target != end) & (owner[target] < 0)
        placed, target = placed[into], target[into]
        if not len(placed):
            # Everything within reach of this jump is placed; a longer one reaches nothing new.
            break
        target, once = np.unique(target, return_index=True)
        owner[target], rank[target] = owner[placed[once]], rank[placed[once]] + length
        jump = jump[jump]
        length *= 2


def _problems(
    log: ProblemLog,
    mms: Mms,
    rows: IndexEntries,
    member: NDArray[np.intp],
    known: NDArray[np.uint64],
    after: NDArray[np.uint64],
    ok: NDArray[np.bool_],
    successor: NDArray[np.int64],
    owner: NDArray[np.int64],
    rank: NDArray[np.int64],
    next_at: np.uint64,
    head_at: np.uint64,
    begins: NDArray[np.bool_],
) -> None:
    end = len(known)
    mm, word, value = rows.mm, known[member] + next_at, after[member]
    unread = ~ok[member]
    log.add(View.LIST, Problem.UNREADABLE, mm[unread], rows.slot[unread], rows.vma[unread])
    broken = (successor[member] == end) & (value != 0) & ~unread
    _bad_pointers(log, mm[broken], word[broken], value[broken])
    head = (mms.mmap != 0) & ~begins
    _bad_pointers(log, mms.mm[head], mms.mm[head] + head_at, mms.mmap[head])
    onward = successor[member] != end
    back = onward & (owner[successor[member]] == owner[member]) & (rank[successor[member]] <= rank[member])
    log.add(View.LIST, Problem.CYCLE, mm[back], word[back], value[back])
    foreign = onward & (owner[successor[member]] != owner[member])
    log.add(View.LIST, Problem.SHARED, mm[foreign], word[foreign], value[foreign])


def _bad_pointers(
    log: ProblemLog, mm: NDArray[np.uint64], where: NDArray[np.uint64], value: NDArray[np.uint64]
) -> None:
    wild = ~kernel_pointer(value)
    log.add(View.LIST, Problem.NON_CANONICAL, mm[wild], where[wild], value[wild])
    log.add(View.LIST, Problem.MISALIGNED, mm[~wild], where[~wild], value[~wild])
