"""THREAD-OUTSIDE: thread runs outside every VMA of its memory map.

*Severity:* high; medium where only the stack pointer is outside; low during `exec`.

*Compared:* RIP and RSP of each thread that is in the kernel on behalf of user mode (saved registers, or those of the
CPU notes) with the VMAs of all indices. Only where every index was read whole. RSP may be one past a stack, or as far
below one as it may grow. The vsyscall page is no VMA and is left out.

*Guaranteed by:* a thread returns to the address it came from; a fault at an address in no VMA kills it. Where exec
fails after the old map has gone, a signal ends it before it returns (`bprm_execve`, fs/exec.c).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, BUSY, INDICES, SMEAR, Apart, Confidence, Part, Rule, Severity
from vmaforensics.checks.vmas.coverage import Coverage
from vmaforensics.columns.lookup import sort_order
from vmaforensics.columns.runs import begins_run, run_starts
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View
from vmaforensics.words.printable import comm_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.anchors.registers import Threads

RULE = Rule(
    id="THREAD-OUTSIDE",
    title="thread runs outside every VMA of its memory map",
    severity=Severity.HIGH,
    why="A thread that entered the kernel from user mode came from memory that was mapped. If no VMA holds the "
    "address it will return to, that VMA has been hidden.",
    benign=(SMEAR, BUSY, "the thread unmapped the code it was running, and is about to be killed", BUG),
    compares="saved RIP and RSP of each thread that entered the kernel from user mode, or those of the CPU notes, with "
    "the VMAs of all indices",
    views=(View.ANCHORS, *INDICES),
    transient="exec sets new registers before or after the new VMAs",
    by_hand=("crash: bt -f PID  # the user registers are at its end", hand.VM),
    steps=("registers", "word", "index"),
    part=Part.CAUSE,
    rank=230,
    in_flight=(Apart(Operation.SIGNAL, 1),),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Register:
    """A register of all threads."""

    name: str
    holds: str  # what it points to
    values: U64
    offset: int  # in the saved registers
    severity: Severity | None = None  # of a finding; None for the rule's own


def check(context: Context) -> Iterator[Finding]:
    """One finding for each gap between VMAs that instruction or stack pointers of threads lead into."""
    anchors = context.views.anchors
    if anchors is None:
        return
    threads, offsets, cover = anchors.threads, anchors.place.offsets, context.shared(Coverage)
    arch, mm, ip, sp = context.views.arch, threads.mm, threads.ip, threads.sp
    judged = threads.user & cover.whole(mm)
    astray = judged & ~cover.holds(mm, ip) & ~arch.in_fixed_pages(ip)
    code = _Register(name=arch.registers.ip, holds="code", values=ip, offset=offsets["ip"])
    yield from _findings(context, threads, np.flatnonzero(astray), code)

    # An empty stack begins at its very end, and one that has not been touched yet below its VMA.
    held = cover.holds(mm, sp) | cover.holds(mm, np.maximum(sp, np.uint64(1)) - np.uint64(1))
    held |= cover.may_grow_to(mm, sp, context.views.stack_guard_gap + arch.red_zone)
    stack = _Register(name=arch.registers.sp, holds="stack", values=sp, offset=offsets["sp"], severity=Severity.MEDIUM)
    yield from _findings(context, threads, np.flatnonzero(judged & ~held & ~astray), stack)


def _findings(context: Context, threads: Threads, rows: I64, register: _Register) -> Iterator[Finding]:
    """One finding for each gap that ``register`` of the threads ``rows`` leads into."""
    mm, address = threads.mm[rows], register.values[rows]
    gap = context.shared(Coverage).gap(mm, address)
    order = sort_order(mm, gap)
    starts = run_starts(begins_run(mm[order], gap[order]))
    for group in np.split(rows[order], starts[1:]) if len(rows) else []:
        yield _finding(context, threads, group, register)


def _finding(context: Context, threads: Threads, group: I64, register: _Register) -> Finding:
    """The finding of the threads ``group``, which are in one gap."""
    first, address = int(group[0]), register.values[group]
    who = f"thread {int(threads.pid[first])}" if len(group) == 1 else f"{len(group)} threads"
    page_size = context.views.arch.page_size
    exec_now = bool(threads.in_exec[group].all())
    found = context.finding(
        RULE,
        int(threads.mm[first]),
        f"{who} with {register.holds} at {int(address[0]):#x}, where no VMA is",
        [_evidence(threads, row, register) for row in group[:MOST].tolist()],
        bounds=(int(address.min()) & -page_size, (int(address.max()) & -page_size) + page_size),
        severity=Severity.LOW if exec_now else register.severity,
        confidence=Confidence.LOW if exec_now else Confidence.MEDIUM if register.severity else None,
        apart=len(group),
    )
    # The process of the thread, which in the case of a borrowed mm is not the one the mm belongs to.
    tasks, pid = context.views.tasks, int(threads.tgid[first])
    owner = np.flatnonzero(tasks.task == threads.task[first])
    comm = comm_of(tasks.comm[owner[0]]) if len(owner) and pid != found.pid else found.comm
    return replace(found, pid=pid, comm=comm)


def _evidence(threads: Threads, row: int, register: _Register) -> Evidence:
    saved, value = int(threads.registers[row]), f"{int(register.values[row]):#x}"
    return Evidence(
        what=f"{'saved ' if saved else ''}{register.name} of thread {int(threads.pid[row])} is {value}, where no VMA "
        "is",
        view=View.ANCHORS.label,
        address=saved + register.offset if saved else 0,
        found=value,
    )
