"""Tasks that wait for each other in a circle: none of them will go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of, values_at

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.views.locks.locks import Locks
    from vmaforensics.views.locks.waits import Waits


def blockers(waits: Waits, locks: Locks) -> I64:
    """Of each wait, the wait of the task that holds the lock; -1 where nobody is known, or who is does not wait."""
    lock = rows_of(locks.lock, waits.lock)
    owner = np.where(waits.lock != 0, values_at(locks.owner, lock), np.uint64(0))
    order = np.argsort(waits.task, kind="stable")
    at = rows_of(waits.task[order], owner)
    return np.where((at >= 0) & (owner != 0), values_at(order.astype(np.int64), at), -1)


def find_cycles(after: I64) -> list[list[int]]:
    """Every circle of the rows that each lead to the row ``after`` says (-1: to none), each once, from its lowest row.

    >>> find_cycles(np.array([1, 0, 0, -1]))
    [[0, 1]]
    """
    following = after.tolist()
    seen = [0] * len(following)  # the start from which each row was reached first
    found = []
    for start in range(len(following)):
        at = start
        while at >= 0 and not seen[at]:
            seen[at] = start + 1
            at = following[at]
        if at < 0 or seen[at] != start + 1:
            continue
        circle = [at]
        while following[circle[-1]] != at:
            circle.append(following[circle[-1]])
        lowest = circle.index(min(circle))
        found.append(circle[lowest:] + circle[:lowest])
    return found
