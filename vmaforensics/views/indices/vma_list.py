"""The ``vm_next`` list of VMAs, ``mm->mmap``, up to 6.0.

A list has to be followed, but it need not be *read* one element at a time: the successors of all known
VMAs are read together, over and over until nothing new turns up, and the following is done in memory.
Handing in the tree's VMAs to begin with is a matter of speed only: what counts is what the list leads to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows, rows_of, values_at
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, I64, U64, Bools
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import VMA, Homes
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms


@table()
class _Elements(Table):
    """VMAs that lists may lead to, sorted by address."""

    vma: U64
    after: U64  # vm_next
    ok: Bools  # vm_next could be read
    successor: I64 = column(fill=-1)  # row that vm_next leads to; -1: the list ends or breaks here
    owner: I32 = column(fill=-1)  # row of the mm whose list it is on; -1 for none
    rank: I32  # position in that list


def walk_list(kernel: Kernel, mms: Mms, hint: U64, log: ProblemLog) -> IndexEntries | None:
    """Every element of every list, in list order, with ``start`` and ``end`` 0.

    ``hint`` are addresses of VMAs known from elsewhere. None where the kernel has no ``vm_next``. An element that
    several lists reach is of that which reaches it in fewer steps; what leads to it otherwise is a problem. So is
    what lies elsewhere than the allocator says; it is an element only if it says that it is of some of ``mms``.
    """
    if not kernel.has("vm_area_struct", "vm_next"):
        return None
    next_at = np.uint64(kernel.offset("vm_area_struct", "vm_next"))
    heads = mms.take(mms.ok)
    head_words = heads.mm + np.uint64(kernel.offset("mm_struct", "mmap"))
    elements, strangers = _read_elements(kernel, np.concatenate([hint, heads.mmap]), heads.mm)
    first = rows_of(elements.vma, heads.mmap)
    elements = _follow(elements, first)
    listed = np.flatnonzero(elements.owner >= 0)
    owner, rank, successor = elements.owner[listed], elements.rank[listed], elements.successor[listed]
    same = (successor >= 0) & (values_at(elements.owner, successor, -1) == owner)
    forward = same & (values_at(elements.rank, successor) == rank + 1)
    before = np.full(len(elements), -1, np.int64)
    before[successor[forward]] = listed[forward]
    before = before[listed]

    rows = IndexEntries.zeros(len(listed))
    rows.mm[:], rows.vma[:], rows.order[:] = heads.mm[owner], elements.vma[listed], rank
    rows.slot[:] = np.where(before >= 0, elements.vma[before] + next_at, head_words[owner])

    word, value, ok = rows.vma + next_at, elements.after[listed], elements.ok[listed]
    log.add(View.LIST, Problem.UNREADABLE, rows.mm[~ok], rows.slot[~ok], rows.vma[~ok])
    stale = ok & np.isin(value, strangers)
    log.add(View.LIST, Problem.STALE, rows.mm[stale], word[stale], value[stale])
    stale_head = np.isin(heads.mmap, strangers)
    log.add(View.LIST, Problem.STALE, heads.mm[stale_head], head_words[stale_head], heads.mmap[stale_head])
    broken = ok & (successor < 0) & (value != 0) & ~stale
    _report_bad_pointers(kernel, log, rows.mm[broken], word[broken], value[broken])
    broken = (first < 0) & (heads.mmap != 0) & ~stale_head
    _report_bad_pointers(kernel, log, heads.mm[broken], head_words[broken], heads.mmap[broken])
    back = same & ~forward
    log.add(View.LIST, Problem.CYCLE, rows.mm[back], word[back], value[back])
    foreign = (successor >= 0) & ~same
    log.add(View.LIST, Problem.SHARED, rows.mm[foreign], word[foreign], value[foreign])
    return rows.sort_by(rows.mm, rows.order)


def _read_elements(kernel: Kernel, start: U64, mms: U64) -> tuple[_Elements, U64]:
    """Every VMA that ``vm_next`` leads to from ``start``, with its successor; and what was met where none lives.

    Of the latter those are elements that name one of ``mms``.
    """
    elements, strangers = _Elements.zeros(0), np.zeros(0, np.uint64)
    fresh = _usable(kernel, start)
    while len(fresh):
        foreign = kernel.shared(Homes).strangers(VMA, fresh)
        if foreign.any():
            owner, ok = kernel.gather_member("vm_area_struct", "vm_mm", fresh)
            strangers = distinct(strangers, fresh[foreign])
            fresh = fresh[~foreign | (ok & np.isin(owner, mms))]
        after, ok = kernel.gather_member("vm_area_struct", "vm_next", fresh)
        elements = _Elements.concatenate([elements, _Elements.of(vma=fresh, after=after, ok=ok)])
        elements = elements.sort_by(elements.vma)
        fresh = np.setdiff1d(_usable(kernel, after[ok]), elements.vma, assume_unique=True)
        fresh = np.setdiff1d(fresh, strangers, assume_unique=True)
    elements.successor[:] = np.where(elements.ok, rows_of(elements.vma, elements.after), -1)
    return elements, strangers


def _usable(kernel: Kernel, pointers: U64) -> U64:
    """Those of ``pointers`` that can lead to a VMA, once each, ascending."""
    return distinct(pointers[kernel.arch.kernel_pointer(pointers) & ((pointers & np.uint64(7)) == 0)])


def _follow(elements: _Elements, first: I64) -> _Elements:
    """Give every element that a list reaches its list and its position, by doubling: after k rounds the first
    2**k elements of every list are placed, and ``jump`` leads 2**k elements on. ``first`` is the row of each list's
    first element, -1 for none. Of lists that reach an element in equally many steps, it belongs to the first."""
    end = len(elements)
    owner, rank = np.full(end + 1, -1, np.int32), np.zeros(end + 1, np.int32)
    jump = np.append(np.where(elements.successor >= 0, elements.successor, end), end)
    lists = np.flatnonzero(first >= 0)
    lists = lists[first_rows(first[lists])]
    owner[first[lists]] = lists
    length = 1
    while length <= end:
        placed = np.flatnonzero(owner[:end] >= 0)
        target = jump[placed]
        into = (target != end) & (owner[target] < 0)
        placed, target = placed[into], target[into]
        if not len(placed):
            # Everything within reach of this jump is placed; a longer one reaches nothing new.
            break
        once = first_rows(target)
        placed, target = placed[once], target[once]
        owner[target], rank[target] = owner[placed], rank[placed] + length
        jump = jump[jump]
        length *= 2
    return elements.replace(owner=owner[:end], rank=rank[:end])


def _report_bad_pointers(kernel: Kernel, log: ProblemLog, mm: U64, where: U64, value: U64) -> None:
    wild = ~kernel.arch.kernel_pointer(value)
    log.add(View.LIST, Problem.NON_CANONICAL, mm[wild], where[wild], value[wild])
    log.add(View.LIST, Problem.MISALIGNED, mm[~wild], where[~wild], value[~wild])
