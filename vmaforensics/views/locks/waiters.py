"""The waiters that lie on the stacks of tasks, and the lists they are on.

A task that waits for a lock puts a waiter on its own stack and links it into the lock's list. It is found by the
task's own address in it, and believed where both neighbours on the list point back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import first_rows, rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U8, U64
from vmaforensics.views.locks.kinds import LockKind
from vmaforensics.views.structures.circular_lists import walk_rings

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.locks.places import Places, StackWords
    from vmaforensics.views.problems import ProblemLog


class Form(NamedTuple):
    """How the waiters of a kind of lock are linked, and how the lock holds their list."""

    struct: str  # of the waiter
    link: str  # its list_head
    lock: str  # the structure of the lock
    head: str  # its list_head; a kernel without has ``first``
    first: str  # its pointer to the first waiter (since 7.2)


FORMS: Final = {
    LockKind.RWSEM: Form("rwsem_waiter", "list", "rw_semaphore", "wait_list", "first_waiter"),
    LockKind.MUTEX: Form("mutex_waiter", "list", "mutex", "wait_list", "first_waiter"),
    LockKind.SEMAPHORE: Form("semaphore_waiter", "list", "semaphore", "wait_list", "first_waiter"),
    LockKind.COMPLETION: Form("swait_queue", "task_list", "completion", "wait.task_list", ""),
}


@table()
class Waiters(Table):
    """A waiter for each place that has one; ``waiter`` is 0 for places without."""

    waiter: U64  # address of the structure
    ring: U64  # lowest address of a list_head of the list it is on; 0 for none
    head: U64  # the list_head on that list that is no waiter: the lock's own; 0 for none, or for several
    kind: U8  # LockKind


@table(struct="list_head")
class _Links(Table):
    next: U64 = member("next")
    prev: U64 = member("prev")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Where the stacks of all tasks lie, to tell waiters of others from heads of lists. Sorted by ``low``."""

    low: U64
    task: U64
    size: int

    def task_at(self, addresses: U64) -> U64:
        """The task on whose stack each address lies; 0 for none."""
        row = np.searchsorted(self.low, addresses, "right") - 1
        with np.errstate(over="ignore"):
            inside = (row >= 0) & (addresses - values_at(self.low, row) < np.uint64(self.size))
        return np.where(inside, values_at(self.task, row), np.uint64(0))


def find_waiters(kernel: Kernel, places: Places, words: StackWords, stretch: Stretch, log: ProblemLog) -> Waiters:
    """The waiter of each of ``places``, a row for each."""
    waiters = Waiters.zeros(len(places))
    waiters.kind[:] = places.kind
    for kind, form in FORMS.items():
        at = np.flatnonzero(places.kind == kind)
        if len(at) and kernel.has(form.struct, "task") and kernel.has(form.struct, f"{form.link}.next"):
            _find(kernel, form, at, places, words, waiters)
            _find_heads(kernel, form, at, stretch, waiters, log)
    return waiters


def _find(kernel: Kernel, form: Form, at: I64, places: Places, words: StackWords, waiters: Waiters) -> None:
    """The waiters of the places ``at``: words of the stack that hold the task itself, at the place of such a member."""
    hits = np.isin(words.place, at) & (words.value == places.task[words.place])
    place = words.place[hits]
    with np.errstate(over="ignore"):
        waiter = words.address[hits] - np.uint64(kernel.offset(form.struct, "task"))
        link = waiter + np.uint64(kernel.offset(form.struct, form.link))
    linked = _is_linked(kernel, link)
    place, waiter = place[linked], waiter[linked]
    first = first_rows(place)
    waiters.waiter[place[first]] = waiter[first]


def _is_linked(kernel: Kernel, links: U64) -> Bools:
    """Which list_heads have neighbours, other than themselves, that point back."""
    heads, ok = kernel.gather(_Links, links)
    pointers = kernel.arch.kernel_pointer(heads.next) & kernel.arch.kernel_pointer(heads.prev)
    ok &= pointers & (heads.next != links)
    after, after_ok = kernel.gather(_Links, np.where(ok, heads.next, links))
    before, before_ok = kernel.gather(_Links, np.where(ok, heads.prev, links))
    # A list without a head is a ring of waiters: one that is alone on it points to itself, and that is proof too.
    alone = (heads.next == links) & (heads.prev == links) & (links != 0)
    linked: Bools = (ok & after_ok & before_ok & (after.prev == links) & (before.next == links)) | alone
    return linked


def _find_heads(kernel: Kernel, form: Form, at: I64, stretch: Stretch, waiters: Waiters, log: ProblemLog) -> None:
    """The list each waiter of ``at`` is on, and its head."""
    at = at[waiters.waiter[at] != 0]
    if not len(at):
        return
    offset = np.uint64(kernel.offset(form.struct, form.link))
    nodes = waiters.waiter[at] + offset
    known = walk_rings(kernel, nodes, log)
    ring = _rings(kernel, known.node)
    # A list_head that is a waiter's has the task on whose stack it lies beside it; all others are heads.
    with np.errstate(over="ignore"):
        task, ok = kernel.gather_member(form.struct, "task", known.node - offset)
    is_waiter = ok & (task != 0) & (stretch.task_at(known.node) == task)
    heads = ~is_waiter & known.read & known.linked
    many = np.bincount(ring[heads], minlength=len(known.node)) if len(known.node) else np.zeros(0, np.int64)
    head = np.zeros(len(known.node), np.uint64)
    head[ring[heads]] = known.node[heads]
    row = ring[rows_of(known.node, nodes)]
    waiters.ring[at] = known.node[row]
    waiters.head[at] = np.where(many[row] == 1, head[row], np.uint64(0))


def _rings(kernel: Kernel, nodes: U64) -> I64:
    """For each of the ascending ``nodes``, the lowest row that ``next`` pointers lead to from it: its list."""
    links, ok = kernel.gather(_Links, nodes)
    after = rows_of(nodes, links.next)
    rows = np.arange(len(nodes), dtype=np.int64)
    jump = np.where(ok & (after >= 0), after, rows)
    lowest = rows
    for _ in range(max(len(nodes), 1).bit_length()):
        lowest = np.minimum(lowest, lowest[jump])
        jump = jump[jump]
    return lowest
