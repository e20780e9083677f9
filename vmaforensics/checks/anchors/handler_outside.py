"""HANDLER-OUTSIDE: signal handler outside every area of the memory map.

*Compared:* handlers and restorers of all signals with the areas of all indices.

*Guaranteed by:* nothing: the kernel does not check them.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, Confidence, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="HANDLER-OUTSIDE",
    title="signal handler outside every area of the memory map",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="A handler is code. If no area holds it, the code is gone or hidden.",
    benign=("a library that set the handler has been unloaded", "the program never meant the signal to arrive"),
    attack=("T1564",),
    compares="handlers and restorers of all signals with the areas of all indices",
    views=(View.ANCHORS, *INDICES),
    transient="none: the kernel does not check them",
    by_hand=("crash: sig PID", hand.VM),
    steps=("handlers", "word", "index"),
    part=Part.LEFT_BEHIND,
    rank=560,
)
