"""VMA-EXEC-MEMFD: executable memory of a file that has no path.

*Compared:* nothing: executable VMAs of shared memory.
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
    id="VMA-EXEC-MEMFD",
    title="executable memory of a file that has no path",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="Code in a memfd or in shared memory never was on a disk.",
    benign=("just-in-time compilers", "libffi closures", "container runtimes that run a copy of themselves"),
    attack=("T1620",),
    compares="nothing: tells executable VMAs of shared memory",
    views=(View.VMA, View.FILES),
    transient="none",
    by_hand=(hand.VM,),
    steps=("vma", "file", "memory"),
    rank=610,
)


def check(context: Context) -> Iterator[Finding]:
    """Executable VMAs of memfds and other shared memory."""
    vmas = context.shared(executable_vmas)
    yield from list_vmas(context, RULE, vmas, vmas.kind == Kind.SHARED_MEMORY)
