"""Resident-set counters of every mm, with the parts that are kept per task or per CPU added in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U64, Bools, I64Wide
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks

KINDS = ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SWAPENTS", "MM_SHMEMPAGES")


@table(struct="task_struct")
class _Cached(Table):
    """struct task_rss_stat: what a thread has not yet added to its mm's (SPLIT_RSS_COUNTING)."""

    count: I64Wide = member("rss_stat.count")


@table(struct="percpu_counter")
class _Counters(Table):
    """struct percpu_counter (include/linux/percpu_counter.h)."""

    count: I64 = member("count")
    counters: U64 = member("counters?")  # per-CPU pointer to the parts; kernels for one CPU alone have none


def read_rss(kernel: Kernel, mms: Mms, tasks: Tasks, *, tasks_whole: bool) -> tuple[I64, Bools]:
    """``(counts, ok)``: pages of each of :data:`KINDS` for every row of ``mms``, shape ``(n, 4)``.

    Up to 6.1 a count in mm_struct and one in every task; since, a percpu_counter: a count and a part for every
    CPU. ``tasks`` are all that are known, ``tasks_whole``: every list of them was followed to its end, and all were
    read. Not ``ok`` where a part could not be read, or the kernel has neither.
    """
    kinds = [number for name in KINDS if (number := kernel.types.constant(name)) is not None]
    if len(kinds) < len(KINDS):
        return _none(mms)
    if not kernel.has("mm_struct", "rss_stat.count"):
        return _none(mms)
    if kernel.member("mm_struct", "rss_stat").count:  # an array of percpu_counter
        counts, ok = _percpu(kernel, mms.mm)
    else:
        field = kernel.member("mm_struct", "rss_stat.count")  # an array of atomic_long_t
        words, ok = kernel.words(mms.mm + np.uint64(field.offset), field.extent // 8)
        counts = words.view(np.int64)
        if kernel.has("task_struct", "rss_stat.count"):
            _add_cached(kernel, mms, tasks, counts)
            if not tasks_whole:  # a task that could not be read may have kept counts for any of them
                ok[:] = False
    return counts[:, kinds], ok & mms.ok


def _none(mms: Mms) -> tuple[I64, Bools]:
    return np.zeros((len(mms), len(KINDS)), np.int64), np.zeros(len(mms), np.bool_)


def _add_cached(kernel: Kernel, mms: Mms, tasks: Tasks, counts: I64) -> None:
    """Add to ``counts`` what the threads of each mm have not yet added."""
    row = rows_of(mms.mm, tasks.mm)
    cached, ok = kernel.gather(_Cached, tasks.task)
    which = ok & tasks.ok & (row >= 0)
    np.add.at(counts, row[which], cached.count[which])


def _percpu(kernel: Kernel, mms: U64) -> tuple[I64, Bools]:
    """The counts of each mm, shape ``(n, counters)``, and of which mm every part could be read."""
    field = kernel.member("mm_struct", "rss_stat")
    many = field.count or 1
    with np.errstate(over="ignore"):
        first = mms[:, None] + np.uint64(field.offset) + np.arange(many, dtype=np.uint64) * np.uint64(field.size)
    counters, ok = kernel.gather(_Counters, first.reshape(-1))
    total = counters.count.copy()
    parted = kernel.has("percpu_counter", "counters")
    if parted:
        ok &= counters.counters != 0
    for offset in per_cpu_offsets(kernel) if parted else ():
        with np.errstate(over="ignore"):
            part, readable = kernel.space.gather(counters.counters + offset, 4)
        total += part.view("<i4")[:, 0]
        ok[~readable] = False
    return total.reshape(-1, many), np.all(ok.reshape(-1, many), axis=1)
