"""Where a stack may lead: to the task's own, and to those of CPUs if the task was on one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.unwinding import TASK_STACK
from vmaforensics.columns.lookup import covering_rows, values_at

if TYPE_CHECKING:
    from vmaforensics.arch.unwinding import Range
    from vmaforensics.columns.types import I64, U64, Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The memory that the stack of each row of :class:`~vmaforensics.views.stacks.frames.Stacks` may be on."""

    ranges: Range  # stacks of CPUs
    low: U64  # lowest address of the task's own; 0: it has none
    size: int  # bytes of that
    on_cpu: Bools  # the stacks of CPUs count too

    def kinds(self, rows: I64, addresses: U64, sizes: U64) -> I64:
        """Kind of the stack that holds ``size`` bytes from each address on; -1 where none does that the row may be on.

        ``rows`` are those of the stacks, one for each address.
        """
        own, at, left = self._places(rows, addresses)
        kinds = np.where(at >= 0, values_at(self.ranges.kind, at).astype(np.int64), -1)
        kinds[own] = TASK_STACK
        kinds[left < sizes] = -1
        return kinds

    def left(self, rows: I64, addresses: U64) -> U64:
        """Bytes from each address to the end of the stack it lies on; 0 where it lies on none."""
        return self._places(rows, addresses)[2]

    def _places(self, rows: I64, addresses: U64) -> tuple[Bools, I64, U64]:
        """(is it the task's own stack, row of the ranges or -1, bytes left there) for each address."""
        with np.errstate(over="ignore"):
            within = addresses - self.low[rows]
            own = (within < np.uint64(self.size)) & (self.low[rows] != 0)
            at = covering_rows(self.ranges.start, self.ranges.end, addresses)
            at = np.where(self.on_cpu[rows] & ~own, at, -1)
            room = np.where(at >= 0, values_at(self.ranges.end, at) - addresses, np.uint64(0))
        return own, at, np.where(own, np.uint64(self.size) - within, room)
