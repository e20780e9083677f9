"""Processes that the list of tasks passes over though they lived when it was read: proved by the order of reading.

A process stays on the list, between the same neighbours but for those that exit, until release_task (kernel/exit.c).
Memory is read by ascending addresses. So if both neighbours lie below what says that a process lives and point at each
other, they did so while it should have been between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64

if TYPE_CHECKING:
    from vmaforensics.columns.types import Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks

_PF_EXITING = 0x4  # include/linux/sched.h


@table(struct="task_struct")
class _Links(Table):
    after: U64 = member("tasks.next")  # list_head
    before: U64 = member("tasks.prev")


@table(struct="signal_struct")
class _Signals(Table):
    threads: I32 = member("nr_threads?")
    first: U64 = member("thread_head.next")  # list_head in the first thread


class PassedOver(NamedTuple):
    """Which tasks live, but their neighbours on the list point at each other."""

    bypassed: Bools
    proven: Bools  # the neighbours were read first, so that it was so while the task lived


def passed_over(kernel: Kernel, tasks: Tasks) -> PassedOver:
    """For each of ``tasks``."""
    link = kernel.offset("task_struct", "tasks")
    with np.errstate(over="ignore"):
        links, ok = kernel.gather(_Links, tasks.task)
        before, held = kernel.gather(_Links, links.before - np.uint64(link))
        after, too = kernel.gather(_Links, links.after - np.uint64(link))
    leaders = tasks.pid == tasks.tgid  # what threads have there was copied as they were made
    joined = leaders & ok & held & too & (links.before != links.after)
    joined &= (before.after == links.after) & (after.before == links.before)
    where = np.maximum(_places(kernel, links.before), _places(kernel, links.after + np.uint64(8)))
    living = tasks.ok & (tasks.exit_state == 0) & ((tasks.flags & _PF_EXITING) == 0)
    exits = tasks.task + np.uint64(kernel.offset("task_struct", "exit_state"))
    signals, read = kernel.gather(_Signals, tasks.signal)
    own = read & (signals.threads > 0) & (signals.first == tasks.task + _thread_node(kernel))
    alive = np.where(living, _places(kernel, exits), 0)
    heads = tasks.signal + np.uint64(kernel.offset("signal_struct", "thread_head"))
    alive = np.where(living & own, np.maximum(alive, _places(kernel, heads)), alive)
    return PassedOver(joined & living, joined & living & (where < alive))


def _thread_node(kernel: Kernel) -> np.uint64:
    return np.uint64(kernel.offset("task_struct", "thread_node"))


def _places(kernel: Kernel, addresses: U64) -> U64:
    """Physical addresses; the last there is where nothing maps an address."""
    where = kernel.space.translate(addresses)
    return np.where(where.mapped, where.pa, np.uint64((1 << 64) - 1))
