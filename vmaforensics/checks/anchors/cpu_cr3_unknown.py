"""CPU-CR3-UNKNOWN: CPU runs on page tables of no known process.

*Severity:* medium, confidence medium; both low where the task list or an `mm_struct` could not be read.

*Compared:* CR3 of each CPU note, and `cpu_tlbstate.loaded_mm`, with the page tables of all processes.

*Guaranteed by:* `switch_mm_irqs_off` (arch/x86/mm/tlb.c).
"""

from __future__ import annotations

from vmaforensics.checks.rule import SMEAR, Confidence, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="CPU-CR3-UNKNOWN",
    title="CPU runs on page tables of no known process",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    why="CR3 names the page tables a CPU really uses. Tables that belong to no task's memory map are those of a "
    "hidden process, or of a memory map that was swapped for a decoy.",
    benign=(
        SMEAR,
        "the kernel's own: firmware calls, a CPU being started, the hand-over to a crash kernel",
        "a memory map whose process has ended while something in the kernel still used it",
    ),
    compares="CR3 of each CPU note, and cpu_tlbstate.loaded_mm, with the page tables of all processes",
    views=(View.ANCHORS, View.TASKS),
    transient="lazy TLB: a kernel thread runs on the tables of the process before it, which is allowed for",
    by_hand=("crash: p cpu_tlbstate:a",),
    steps=("cpus", "word"),
    rank=590,
)
