"""Resident-set counters of every mm, with the parts that are kept per task or per CPU added in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.views import Views

KINDS = ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SWAPENTS", "MM_SHMEMPAGES")


def read_rss(kernel: Kernel, views: Views, broken: bool = False) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """``(counts, ok)``: pages of each of :data:`KINDS` for every row of ``views.mms``, shape ``(n, 4)``.

    Up to 6.1 a count in mm_struct and one in every task (SPLIT_RSS_COUNTING); since, a percpu_counter:
    a count and a part for every CPU. ``broken``: some list of tasks could not be followed to its end. Not ``ok``
    where a part could not be read, or the kernel has neither.
    """
    mms = views.mms
    counts, ok = np.zeros((len(mms), len(KINDS)), np.int64), mms["ok"].copy()
    order = [number for name in KINDS if (number := kernel.types.constant(name)) is not None]
    if len(order) < len(KINDS):
        return counts, np.zeros(len(mms), np.bool_)
    if kernel.has("mm_struct", "rss_stat.counters"):
        stored, fine = _percpu(kernel, mms)
        ok &= fine
    elif kernel.has("mm_struct", "rss_stat.count"):
        raw, fine = kernel.gather("mm_struct", mms["mm"], ["rss_stat.count"])
        stored = np.ascontiguousarray(raw["rss_stat.count"]).view("<i8")
        ok &= fine
        if kernel.has("task_struct", "rss_stat.count"):
            stored = stored + _cached(kernel, views, stored.shape)
            # A task that could not be read may have kept counts for any of them.
            ok &= bool(views.tasks["ok"].all()) and not broken
    else:
        return counts, np.zeros(len(mms), np.bool_)
    return stored[:, order], ok


def _cached(kernel: Kernel, views: Views, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """What the threads of each mm have not yet added to it."""
    known = views.tasks if views.sources is None else views.sources.tasks
    tasks = known[known["ok"]]
    raw, ok = kernel.gather("task_struct", tasks["task"], ["rss_stat.count"])
    total = np.zeros(shape, np.int64)
    row = views.mm_rows(tasks["mm"])
    keep = ok & (row >= 0)
    np.add.at(total, row[keep], raw["rss_stat.count"][keep].astype(np.int64))
    return total


def _percpu(kernel: Kernel, mms: Mms) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    field = kernel.member("mm_struct", "rss_stat")
    count = field.count or 1
    with np.errstate(over="ignore"):
        first = mms["mm"][:, None] + np.uint64(field.offset) + np.arange(count, dtype=np.uint64) * np.uint64(field.size)
    got, ok = kernel.gather("percpu_counter", first.reshape(-1), ["count", "counters"])
    total = got["count"].astype(np.int64)
    ok = ok & (got["counters"] != 0)
    for offset in per_cpu_offsets(kernel):
        with np.errstate(over="ignore"):
            data, fine = kernel.space.gather(got["counters"] + offset, 4)
        total += data.view("<i4")[:, 0]
        ok &= fine
    whole: NDArray[np.bool_] = ok.reshape(-1, count).all(axis=1)
    return total.reshape(-1, count), whole
