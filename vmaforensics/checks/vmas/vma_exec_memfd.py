"""VMA-EXEC-MEMFD: executable memory of a file that has no path.

*Compared:* nothing: executable areas of shared memory.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Confidence, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-EXEC-MEMFD",
    title="executable memory of a file that has no path",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="Code in a memfd or in shared memory never was on a disk.",
    benign=("just-in-time compilers", "libffi closures", "container runtimes that run a copy of themselves"),
    attack=("T1620",),
    compares="nothing: tells executable areas of shared memory",
    views=(View.VMA, View.FILES),
    transient="none",
    by_hand=(hand.VM,),
    steps=("area", "file", "memory"),
    rank=610,
)
