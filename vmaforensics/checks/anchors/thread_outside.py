"""THREAD-OUTSIDE: thread runs outside every area of its memory map.

*Severity:* high; medium where only the stack pointer is outside; low during `exec`.

*Compared:* RIP and RSP of each thread that is in the kernel on behalf of user mode (saved registers, or those of the
CPU notes) with the areas of all indices. Only where every index was read whole. RSP may be one past a stack, or as far
below one as it may grow. The vsyscall page is no area and is left out.

*Guaranteed by:* a thread returns to the address it came from; a fault at an address in no area kills it.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import BUG, BUSY, INDICES, SMEAR, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="THREAD-OUTSIDE",
    title="thread runs outside every area of its memory map",
    severity=Severity.HIGH,
    why="A thread that entered the kernel from user mode came from memory that was mapped. If no area holds the "
    "address it will return to, that area has been hidden.",
    benign=(SMEAR, BUSY, "the thread unmapped the code it was running, and is about to be killed", BUG),
    compares="saved RIP and RSP of each thread that entered the kernel from user mode, or those of the CPU notes, with "
    "the areas of all indices",
    views=(View.ANCHORS, *INDICES),
    transient="exec sets new registers before or after the new areas",
    by_hand=("crash: bt -f PID  # the user registers are at its end", hand.VM),
    steps=("registers", "word", "index"),
    part=Part.CAUSE,
    rank=230,
)
