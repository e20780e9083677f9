"""VMA-EXEC-ANON: executable memory without a file.

*Compared:* nothing: executable anonymous VMAs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Confidence, Rule, Severity
from vmaforensics.checks.vmas.executable import executable_vmas, list_vmas
from vmaforensics.views.view import View
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="VMA-EXEC-ANON",
    title="executable memory without a file",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="Injected code lies in such memory, as does code that a program makes at run time.",
    benign=("just-in-time compilers", "trampolines and closures", "programs linked to need executable stacks"),
    attack=("T1055",),
    compares="nothing: tells executable anonymous VMAs",
    views=(View.VMA,),
    transient="none",
    by_hand=(hand.VM,),
    steps=("vma", "memory"),
    rank=630,
)


def check(context: Context) -> Iterator[Finding]:
    """Executable VMAs that no file backs."""
    vmas = context.shared(executable_vmas)
    yield from list_vmas(context, RULE, vmas, vmas.kind == Kind.ANONYMOUS)
