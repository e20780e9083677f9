"""MT-RESERVED: reserved entry left by a failed fork.

Kernels from 6.8 into late 6.x.

*Compared:* nothing: an entry of a leaf that is no pointer but one of the xarray's own (`XA_ZERO_ENTRY`).

*Guaranteed by:* `dup_mmap` (kernel/fork.c) overwrites the failing area's range with XA_ZERO_ENTRY and sets
MMF_UNSTABLE.
"""

from __future__ import annotations

from vmaforensics.checks.rule import Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="MT-RESERVED",
    title="reserved entry left by a failed fork",
    severity=Severity.INFO,
    why="When a fork fails half-way, kernels from 6.8 on mark the place; areas behind it still are the parent's.",
    benign=("the system was short of memory while the process forked",),
    attack=(),
    compares="nothing: an entry of a leaf is no pointer but XA_ZERO_ENTRY, 0x406",
    views=(View.MAPLE,),
    transient="it stays, with the lock free, until the last reference to the child's mm_struct goes",
    by_hand=("crash: rd -64 ADDRESS",),
    steps=("word", "tree"),
    rank=510,
)
