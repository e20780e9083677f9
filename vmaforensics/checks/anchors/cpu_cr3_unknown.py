"""CPU-CR3-UNKNOWN: CPU runs on page tables of no known process.

*Severity:* medium, confidence medium; both low where the task list or an `mm_struct` could not be read.

*Compared:* CR3 of each CPU note, and `cpu_tlbstate.loaded_mm`, with the page tables of all processes.

*Guaranteed by:* `switch_mm_irqs_off` (arch/x86/mm/tlb.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import SMEAR, Confidence, Rule, Severity
from vmaforensics.views.anchors.cpus import RootOwner
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

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


def check(context: Context) -> Iterator[Finding]:
    """One finding for each such CPU, unless a task or an mm was lost: it may be the one the CPU runs on."""
    anchors, problems = context.views.anchors, context.views.problems
    if anchors is None or not context.views.mms.ok.all():
        return
    lost = np.isin(problems.problem, (Problem.UNREADABLE, Problem.CUT_SHORT))
    if (lost & (problems.view == View.TASKS)).any():
        return
    cpus = anchors.cpus
    for row in np.flatnonzero(np.isin(cpus.owner, (RootOwner.UNKNOWN, RootOwner.TASKLESS))).tolist():
        cpu, mm = int(cpus.cpu[row]), int(cpus.mm[row])
        register, value = context.views.arch.registers.table, f"{int(cpus.table_register[row]):#x}"
        what = f"{register} of CPU {cpu} is {value}"
        evidence = [Evidence(what=what, view=View.ANCHORS.label, address=0, found=value)]
        if loaded := int(cpus.loaded_mm[row]):
            text = f"cpu_tlbstate.loaded_mm of CPU {cpu} is {loaded:#x}"
            evidence.append(Evidence(what=text, view=View.ANCHORS.label, address=int(cpus.loaded_from[row])))
        title = (
            f"CPU {cpu} runs on the memory map {mm:#x}, which has users and no task"
            if cpus.owner[row] == RootOwner.TASKLESS
            else f"CPU {cpu} runs on page tables at physical {int(cpus.root[row]):#x}, which are no process's"
        )
        yield context.finding(RULE, mm, title, evidence)
