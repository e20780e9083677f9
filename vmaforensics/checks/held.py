"""VMAs that nobody changed between two readings, though their process ran: what the kernel's count of changes proves.

Kernels with locks per VMA (6.4 on) number the changes of a memory map: ``mm_lock_seq`` counts those that are over, and
each VMA keeps the number of the one that wrote to it last, as ``vm_lock_seq`` (vma_start_write, include/linux). Nothing
changes a VMA, or takes it out of its map, without that. Memory is read by ascending addresses. So

* a VMA was the same from where a record of its address space shows a later number than its own up to the VMA itself;
* no VMA changed from where the number of the last change is found up to the mm_struct that says that it was the last.

Where the machine stood still in the middle of a change, the same numbers say which VMAs it is about.

Which clock says when does not matter here, only what was read before what, and that the process was there before the
first of it: the mm_struct of one that has ended is soon another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import composite_key, rows_of, values_at
from vmaforensics.columns.runs import begins_run
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U64
from vmaforensics.views.clocks.bases import SECOND
from vmaforensics.views.slab.objects import State
from vmaforensics.views.structures.lock import Lock
from vmaforensics.views.vmas.vmas import NEVER_LOCKED, Vmas

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.clocks.clocks import Places
    from vmaforensics.views.views import Views

HELD = "nobody wrote to that VMA from before the word was read until the VMA was: its vm_lock_seq is of an older change"
UNTOUCHED = "the change of the map that was under way is not of that VMA: its vm_lock_seq is of an older one"
OUTLIVED = (
    "the VMA was read before the empty slot and what leads back to it after it, and its vm_lock_seq says that the many "
    "changes of the map until then passed it over"
)
_SEQ_BITS = 32
_SETTLES = SECOND // 20  # ns; the last change was still going on where its number was found
_MANY = 128  # a change has one or two numbers
_MOST_SEQ = 1 << 31


@table()
class _Seen(Table):
    """Numbers of changes that had begun when their page was read. By place in each address space."""

    owner: I64  # row of Views.mms
    seq: I64
    place: U64


class Held:
    """Asks the numbers of changes; ask for it with :func:`held`."""

    def __init__(self, context: Context, places: Places) -> None:
        views, self._times = context.views, context.acquisition.times
        self._vmas = vmas = _numbered(views)
        self._place = places.each(vmas.vma)
        self._owner = views.mm_rows(vmas.mm)
        self._mm_place, self._count = places.each(views.mms.mm), views.mms.lock_seq.astype(np.int64)
        self._calm = views.mms.lock != Lock.WRITE
        seq = vmas.lock_seq.astype(np.int64)
        # What was read before the mm_struct cannot know of a change that this does not.
        late = self._place > self._mm_place[self._owner]
        lives = lives_long(context)
        seen = np.flatnonzero((seq < _MOST_SEQ) & lives[self._owner] & (late | (seq < self._count[self._owner])))
        rows = np.flatnonzero((self._count > 0) & (self._count < _MOST_SEQ) & lives)
        self._seen = _Seen(
            owner=np.concatenate([self._owner[seen], rows]),
            seq=np.concatenate([seq[seen], self._count[rows]]),
            place=np.concatenate([self._place[seen], self._mm_place[rows]]),
        )
        self._seen = self._seen.sort_by(self._seen.owner, self._seen.place)
        self._since = self._first_later(self._owner, seq)
        self._quiet = self._first_later(np.arange(len(views.mms)), self._count - 2)

    def through(self, vma: U64, word: U64) -> Bools:
        """Was each VMA the same from when the word at a physical address was read to when itself was, or back?"""
        row = rows_of(self._vmas.vma, vma)
        place, owner = values_at(self._place, row), values_at(self._owner, row)
        held = (values_at(self._since, row) <= word) & (word <= place)
        same: Bools = (row >= 0) & (held | (self._in_quiet(owner, place) & self._in_quiet(owner, word)))
        return same

    def outlived(self, vma: U64, word: U64, later: U64) -> Bools:
        """Was a VMA that was read before ``word`` no part of what its process maps and unmaps all the time?

        ``later`` is where what leads back to the VMA lies: behind ``word``, or 0 for nowhere. Many changes have passed
        the VMA over before, or at least as many as were made from then on.
        """
        row = rows_of(self._vmas.vma, vma)
        place, owner = values_at(self._place, row), values_at(self._owner, row)
        by_then, at_last = self._begun(owner, place)
        seq = values_at(self._vmas.lock_seq, row).astype(np.int64)
        passed = (by_then > seq + 1) & (by_then - seq >= np.minimum(at_last - by_then, _MANY))
        steady: Bools = (row >= 0) & (place <= word) & (word < later) & passed
        return steady

    def old(self, vma: U64, word: U64) -> Bools:
        """Had many changes passed each VMA over when a word was read, or one in four of all that its process made?"""
        row = rows_of(self._vmas.vma, vma)
        by_then, _ = self._begun(values_at(self._owner, row), word)
        seq = values_at(self._vmas.lock_seq, row).astype(np.int64)
        passed: Bools = (row >= 0) & (by_then > seq) & (by_then - seq >= np.minimum(by_then // 4, _MANY))
        return passed

    def _begun(self, owner: I64, place: U64) -> tuple[I64, I64]:
        """(the highest number read up to each place, the highest of all) of each address space; 0 for none."""
        seen = self._seen
        if not len(seen):
            return np.zeros(len(owner), np.int64), np.zeros(len(owner), np.int64)
        highest = np.maximum.accumulate(seen.owner << np.int64(_SEQ_BITS) | seen.seq) & np.int64(_MOST_SEQ - 1)
        by_place = np.sort(seen.place)
        keys = composite_key(seen.owner, np.searchsorted(by_place, seen.place).astype(np.uint64), _SEQ_BITS)
        asked = np.searchsorted(by_place, place, "right").astype(np.uint64)
        row = np.searchsorted(keys, composite_key(owner, asked, _SEQ_BITS)) - 1
        last = np.searchsorted(seen.owner, owner, "right") - 1
        own = (row >= 0) & (seen.owner[row] == owner)
        return np.where(own, highest[row], 0), np.where(seen.owner[last] == owner, highest[last], 0)

    def _first_later(self, owner: I64, seq: I64) -> U64:
        """Where a number above each ``seq`` was read first in each address space; the highest place for nowhere."""
        nowhere = np.full(len(owner), (1 << 64) - 1, np.uint64)
        seen = self._seen.sort_by(self._seen.owner, self._seen.seq)
        if not len(seen):
            return nowhere
        by_place = np.sort(seen.place)
        rank = np.searchsorted(by_place, seen.place).astype(np.int64)
        count = np.int64(len(seen))
        first = np.minimum.accumulate((seen.owner * count + rank)[::-1])[::-1]
        keys = composite_key(seen.owner, seen.seq.astype(np.uint64), _SEQ_BITS)
        row = np.searchsorted(keys, composite_key(owner, np.maximum(seq + 1, 0).astype(np.uint64), _SEQ_BITS))
        at = np.minimum(row, len(seen) - 1)
        found = (row < len(seen)) & (seen.owner[at] == owner)
        return np.where(found, by_place[first[at] - seen.owner[at] * count], nowhere)

    def _in_quiet(self, owner: I64, place: U64) -> Bools:
        """Does each place lie where no change of its address space was made any more, up to the mm_struct?"""
        begins, ends = values_at(self._quiet, owner), values_at(self._mm_place, owner)
        quiet: Bools = (owner >= 0) & values_at(self._calm, owner) & (begins <= place) & (place <= ends)
        quiet[quiet] &= self._read(place[quiet]) - self._read(begins[quiet]) >= _SETTLES
        return quiet

    def _read(self, place: U64) -> I64:
        assert self._times is not None
        return self._times.at(place).time


def held(context: Context) -> Held | None:
    """What the numbers of changes say; None where the machine stood still, they are not there, or nothing is known of
    the order of reading. Ask for it with ``context.shared``."""
    acquisition = context.acquisition
    if not acquisition.live or acquisition.times is None or acquisition.clocks is None:
        return None
    return Held(context, acquisition.clocks.places) if (context.views.mms.lock_seq > 0).any() else None


def untouched(context: Context, vmas: Vmas) -> Bools:
    """Which of ``vmas``, of a map whose lock is write-held, no change has in hand, where the machine stood still."""
    mms = context.views.mms
    row = context.views.mm_rows(vmas.mm)
    now, changing = values_at(mms.lock_seq, row), values_at(mms.lock == Lock.WRITE, row)
    free: Bools = (row >= 0) & changing & (now > 0) & vmas.ok & (vmas.lock_seq != now)
    return free & (not context.acquisition.live)


def lives_long(context: Context) -> Bools:
    """Per row of ``Views.mms``: was a task that uses it made well before the acquisition began?"""
    views, clocks, times = context.views, context.acquisition.clocks, context.acquisition.times
    assert clocks is not None and times is not None
    tasks, known = views.tasks if views.sources is None else views.sources.tasks, clocks.tasks
    started = values_at(known.started, rows_of(known.task, tasks.task))
    old = tasks.ok & (started > 0) & (started < np.int64(times.begun - SECOND))
    return np.isin(views.mms.mm, tasks.mm[old])


def _numbered(views: Views) -> Vmas:
    """Every VMA of an address space in use that has such a number and can be believed; ascending."""
    parts = [views.vmas]
    if views.strays is not None:
        parts.append(views.strays.vmas.take(np.flatnonzero(views.strays.state != State.FREE)))
    if views.rmap is not None:
        parts.append(views.rmap.vmas)
    vmas = Vmas.concatenate(parts)
    vmas = vmas.sort_by(vmas.vma)
    vmas = vmas.take(np.flatnonzero(begins_run(vmas.vma)))
    end = values_at(views.mms.task_size, views.mm_rows(vmas.mm))
    sane = vmas.ok & (vmas.lock_seq > 0) & (vmas.lock_seq != NEVER_LOCKED) & (vmas.start < vmas.end)
    return vmas.take(np.flatnonzero(sane & (vmas.end <= end) & (views.mm_rows(vmas.mm) >= 0)))
