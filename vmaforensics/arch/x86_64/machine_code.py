"""Machine code that a debugger or the kernel itself writes over a program's (arch/x86/kernel/uprobes.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U8, Bools

_BREAKPOINT = 0xCC  # int3
_CALL, _CALL_SIZE = 0xE8, 5  # call rel32, which may stand in the place of a probed nop (7.x)


def breakpoints(code: U8) -> Bools:
    """Which bytes are int3."""
    found: Bools = code == _BREAKPOINT
    return found


def probe_sizes(first: U8) -> I64:
    """Bytes of the instruction that a uprobe puts, by its first byte; 0 if it is none of those."""
    found: I64 = np.select([first == _BREAKPOINT, first == _CALL], [1, _CALL_SIZE], 0).astype(np.int64)
    return found
