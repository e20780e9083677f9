"""HANDLER-OUTSIDE: signal handler outside every VMA of the memory map.

*Compared:* handlers and restorers of all signals with the VMAs of all indices.

*Guaranteed by:* nothing: the kernel does not check them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, Confidence, Part, Rule, Severity
from vmaforensics.checks.vmas.coverage import Coverage
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="HANDLER-OUTSIDE",
    title="signal handler outside every VMA of the memory map",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="A handler is code. If no VMA holds it, the code is gone or hidden.",
    benign=("a library that set the handler has been unloaded", "the program never meant the signal to arrive"),
    attack=("T1564",),
    compares="handlers and restorers of all signals with the VMAs of all indices",
    views=(View.ANCHORS, *INDICES),
    transient="none: the kernel does not check them",
    by_hand=("crash: sig PID", hand.VM),
    steps=("handlers", "word", "index"),
    part=Part.LEFT_BEHIND,
    rank=560,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with handlers, or restorers, in no VMA."""
    anchors = context.views.anchors
    if anchors is None:
        return
    handlers, cover = anchors.handlers, context.shared(Coverage)
    judged = np.flatnonzero(cover.whole(handlers.mm))
    row = np.tile(judged, 2)
    address = np.concatenate([handlers.handler[judged], handlers.restorer[judged]])
    is_handler = np.arange(len(row)) < len(judged)
    outside = np.flatnonzero(~cover.holds(handlers.mm[row], address) & (address != 0))
    row, address, is_handler = row[outside], address[outside], is_handler[outside]

    def evidence(at: int) -> Evidence:
        what = "handler" if is_handler[at] else "restorer"
        return Evidence(
            what=f"the {what} of signal {int(handlers.signal[row[at]])} is at {int(address[at]):#x}, where no VMA is",
            view=View.ANCHORS.label,
            address=int(handlers.where[row[at]]),
            found=f"{int(address[at]):#x}",
        )

    def title(at: int) -> str:
        return f"handler of signal {int(handlers.signal[row[at]])} at {int(address[at]):#x} lies in no VMA"

    yield from context.per_mm(RULE, handlers.mm[row], evidence, title)
