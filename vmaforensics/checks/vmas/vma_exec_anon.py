"""VMA-EXEC-ANON: executable memory without a file.

*Compared:* nothing: executable anonymous areas.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Confidence, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-EXEC-ANON",
    title="executable memory without a file",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="Injected code lies in such memory, as does code that a program makes at run time.",
    benign=("just-in-time compilers", "trampolines and closures", "programs linked to need executable stacks"),
    attack=("T1055",),
    compares="nothing: tells executable anonymous areas",
    views=(View.VMA,),
    transient="none",
    by_hand=(hand.VM,),
    steps=("area", "memory"),
    rank=630,
)
