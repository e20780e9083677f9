"""MT-RESERVED: reserved entry left by a failed fork.

Kernels from 6.8 into late 6.x.

*Compared:* nothing: an entry of a leaf that is no pointer but one of the xarray's own (`XA_ZERO_ENTRY`).

*Guaranteed by:* `dup_mmap` (kernel/fork.c) overwrites the failing VMA's range with XA_ZERO_ENTRY and sets
MMF_UNSTABLE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import Rule, Severity
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="MT-RESERVED",
    title="reserved entry left by a failed fork",
    severity=Severity.INFO,
    why="When a fork fails half-way, kernels from 6.8 on mark the place; VMAs behind it still are the parent's.",
    benign=("the system was short of memory while the process forked",),
    attack=(),
    compares="nothing: an entry of a leaf is no pointer but XA_ZERO_ENTRY, 0x406",
    views=(View.MAPLE,),
    transient="it stays, with the lock free, until the last reference to the child's mm_struct goes",
    by_hand=("crash: rd -64 ADDRESS",),
    steps=("word", "tree"),
    rank=510,
)


def check(context: Context) -> Iterator[Finding]:
    """Maple trees with an XA_ZERO_ENTRY where a VMA would be."""
    problems = context.views.problems
    forks = problems.take(problems.problem == Problem.RESERVED)

    def evidence(row: int) -> Evidence:
        return Evidence(
            what="a reserved entry stands where a VMA would",
            view=View.MAPLE.label,
            address=int(forks.where[row]),
            found=f"{int(forks.value[row]):#x}",
        )

    yield from context.per_mm(RULE, forks.mm, evidence, lambda row: "the maple tree carries the mark of a failed fork")
