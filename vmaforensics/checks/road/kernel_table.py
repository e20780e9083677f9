"""KERNEL-TABLE: system calls, exceptions, security hooks or tracepoints lead to code that is not the kernel's.

*Compared:* every entry of `sys_call_table` (and of the tables of other ABIs) with the names of functions of system
calls; where a compiled switch decides (`x64_sys_call`), the function that it goes to for each number with that of the
table; every gate of `idt_table` with the function that belongs there, or with the code for entering
(`__entry_text_start`); the place where CPUs are told that the table lies (`idt_descr`, the register in notes of QEMU)
with the table. Every function on the lists of security modules (`security_hook_heads`, since 6.12
`static_calls_table`), and every function that a tracepoint calls, with the code of the kernel and of its modules.

*Guaranteed by:* the tables lie in read-only data and are made when the kernel is built (arch/x86/entry/syscall_64.c) or
while it boots (`idt_setup_traps`, `security_add_hooks`). Tracepoints take the functions that tracers, BPF and modules
register (`tracepoint_probe_register`, kernel/tracepoint.c), in an array that is given back when they change
(`release_probes`): while a machine runs it is another's before it is read, and only what the CPU may execute was ever
called. Kernels since 6.9 (and 6.1.x and 6.6.x with the mitigation
of BHI) do not go by `sys_call_table` but by a switch that is compiled (`x64_sys_call`): both are made of the same list.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.checks.finding import Severity
from vmaforensics.checks.road.places import cannot_run, pointer_evidence, told
from vmaforensics.checks.rule import BUG, Rule
from vmaforensics.views.road.pointers import Leads, Source
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.road.road import RoadView

RULE = Rule(
    id="KERNEL-TABLE",
    title="a table of the kernel leads to code that is not its own",
    severity=Severity.HIGH,
    why="What a table of system calls or exceptions leads to runs in place of the kernel, and decides what every "
    "program on the machine gets to see.",
    benign=("a security agent that puts itself into the table, from a module that is on the list", BUG),
    attack=("T1014",),
    compares="sys_call_table, idt_table, hooks of security modules and functions of tracepoints with the kernel's code",
    views=(View.CODE,),
    transient="none: the tables are set up while the kernel boots; arrays of tracepoints are replaced whole",
    by_hand=("crash: sys", "crash: irq -d", "crash: rd -s sys_call_table 470"),
    steps=("word",),
    rank=711,
    changed_by=(),
)

# Where words of each source may lead.
_FINE: Final = {
    Source.SYSCALL: (Leads.FUNCTION, Leads.NULL),
    Source.VECTOR: (Leads.FUNCTION, Leads.INSIDE, Leads.BOOT),  # gates of devices share a row of stubs
    Source.SWITCH: (Leads.FUNCTION,),
    Source.VECTOR_TABLE: (Leads.DATA,),
    Source.LSM: (Leads.FUNCTION, Leads.NULL),
    Source.TRACEPOINT: (Leads.FUNCTION, Leads.MADE),
}
# What the kernel's own code does not lie in.
_NO_CODE: Final = (Leads.NOWHERE, Leads.DATA, Leads.UNNAMED, Leads.BOOT)
# What a module on the list that is led to makes of it.
_BY_MODULES: Final = {
    Source.SYSCALL: Severity.MEDIUM,
    Source.VECTOR: Severity.HIGH,
    Source.SWITCH: Severity.HIGH,
    Source.VECTOR_TABLE: Severity.HIGH,
    Source.LSM: Severity.MEDIUM,
    Source.TRACEPOINT: Severity.INFO,
}


def check(context: Context) -> Iterator[Finding]:
    """A finding for each table, those that lead to modules apart from those that lead elsewhere."""
    road = context.views.road
    if road is None:
        return
    pointers = road.pointers
    for source, allowed in _FINE.items():
        known = allowed if road.named else (*allowed, Leads.INSIDE)
        of_it = (pointers.source == source) & ~np.isin(pointers.leads, known)
        by_modules = pointers.leads == Leads.MODULE
        reused = of_it & _may_be_another_s(context, road)
        for rows, severity in (
            (np.flatnonzero(of_it & ~by_modules & ~reused), Severity.HIGH),
            (np.flatnonzero(of_it & by_modules), _BY_MODULES[source]),
            (np.flatnonzero(reused), Severity.LOW),
        ):
            if len(rows):
                yield told(context, RULE, rows, partial(pointer_evidence, road), severity, size=8)


def _may_be_another_s(context: Context, road: RoadView) -> Bools:
    """Words of arrays that may have been given back before they were read: what they lead to cannot be executed."""
    pointers = road.pointers
    found: Bools = (pointers.source == Source.TRACEPOINT) & np.isin(pointers.leads, _NO_CODE)
    return found & context.acquisition.live & cannot_run(context, road, pointers.target)
