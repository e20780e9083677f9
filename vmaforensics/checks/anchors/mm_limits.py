"""MM-LIMITS: parts of a program end before they begin.

*Compared:* `start_code` with `end_code`, `start_data` with `end_data`, `start_brk` with `brk`, `arg_start` with
`arg_end`, `env_start` with `env_end`; each with the end of user addresses.

*Guaranteed by:* `load_elf_binary` (fs/binfmt_elf.c) sets them so, and `validate_prctl_map_addr` (kernel/sys.c) lets
nobody set them otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Confidence, Rule, Severity
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="MM-LIMITS",
    title="parts of a program end before they begin",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    why="These words are set by exec and by prctl, and neither allows that: somebody else wrote them.",
    benign=(SMEAR, BUG),
    attack=("T1036",),
    compares="the bounds of code, data, heap, arguments and environment with each other and with the end of user space",
    views=(View.ANCHORS,),
    transient="exec",
    by_hand=("crash: struct mm_struct.start_code,end_code,start_data,end_data,start_brk,brk,arg_start,env_end MM",),
    steps=("mm", "word"),
    rank=579,
    changed_by=(Operation.EXEC,),
)

# Where it begins, where it ends; at the least that many bytes lie between.
_PARTS = (
    ("start_code", "end_code"),
    ("start_data", "end_data"),
    ("start_brk", "brk"),
    ("arg_start", "arg_end"),
    ("env_start", "env_end"),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such a part. What exec has not filled in yet is zero."""
    mms, offsets = context.views.mms, context.views.mm_offsets
    top = np.where(mms.task_size == 0, np.uint64(context.views.arch.user_top), mms.task_size)
    filled = mms.ok & (mms.start_code != 0) & (mms.end_code != 0) & (mms.start_stack != 0)
    found: list[tuple[int, str, str]] = []
    for first, last in _PARTS:
        start, end = getattr(mms, first), getattr(mms, last)
        wrong = filled & ((start > end) | (end > top))
        found += [(row, first, last) for row in np.flatnonzero(wrong).tolist()]
    rows = np.array([row for row, _, _ in found], np.int64)

    def title(at: int) -> str:
        row, first, last = found[at]
        return f"{first} is {int(getattr(mms, first)[row]):#x}, {last} {int(getattr(mms, last)[row]):#x}"

    def evidence(at: int) -> Evidence:
        row, _, last = found[at]
        value = f"{int(getattr(mms, last)[row]):#x}"
        where = int(mms.mm[row]) + int(getattr(offsets, last) or 0)
        return Evidence(what=title(at), view=View.ANCHORS.label, address=where, found=value)

    yield from context.per_mm(RULE, mms.mm[rows], evidence, title)
