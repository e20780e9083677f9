"""CODE-FOREIGN: the kernel may execute memory that nobody owns.

*Compared:* every executable page of the kernel half of the page tables with the code of the kernel, of every module
that some record leads to, of BPF (`bpf_kallsyms`, packs of programs), trampolines of ftrace, slots of kprobes, and code
that other CPUs start with and that kexec jumps from. Pages that hold nothing but the filler are a cache's (execmem,
packs).

*Guaranteed by:* executable memory is made by few (`module_alloc`, since 6.10 `execmem_alloc`; arch/x86/mm/init.c), and
each of its users keeps a record of what it has. Where a function of the kernel asked for an area for itself
(`vm_struct.caller`), the area is its own. Since 6.13 there is a cache of such memory (`execmem_cache`); what was given
back to it may hold its old code for long, and is information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.road.places import CODE, whose
from vmaforensics.checks.rule import BUG, SMEAR, Rule
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="CODE-FOREIGN",
    title="the kernel may execute memory that nobody owns",
    severity=Severity.HIGH,
    why="Code in the kernel that belongs to no module, no BPF program and no tracer was put there by somebody who "
    "wants it not to be found: a module that left all lists, or code that was copied into kernel memory.",
    benign=(SMEAR, BUG, "a module that is being loaded or unloaded at that moment", "a driver's own code generator"),
    attack=("T1014",),
    compares="executable pages of the kernel's page tables with the records of everybody who has code",
    views=(View.CODE,),
    transient="a module's memory is there shortly before it is on the list, and shortly after it was taken off",
    by_hand=("crash: vtop ADDRESS", "crash: kmem ADDRESS", "crash: rd -8 ADDRESS 64"),
    steps=("code",),
    rank=701,
    changed_by=(),
)

# Lists of owners that break off where memory is missing, and whose code it is may stand behind: one may be cut by hand.
_MANY = 3


def check(context: Context) -> Iterator[Finding]:
    """A finding for each area, and for each run of pages outside of all areas."""
    road = context.views.road
    if road is None:
        return
    code = road.foreign.code
    hidden = road.owners.of(code.start) != 0
    places = np.where(code.area != 0, code.area, code.start)
    kinds = list(zip(places.tolist(), code.released.tolist(), strict=True))
    for place, released in dict.fromkeys(kind for kind, known in zip(kinds, hidden.tolist(), strict=True) if not known):
        rows = np.flatnonzero((places == np.uint64(place)) & (code.released == released) & ~hidden).tolist()
        evidence = []
        for row in rows:
            start, end = int(code.start[row]), int(code.end[row])
            pages = counted((end - start) // context.views.arch.page_size, "page")
            writable = "executable and writable" if code.writable[row] else "executable"
            evidence.append(
                Evidence(
                    what=f"{start:#x}-{end:#x}: {pages}, {writable}, begins with {road.foreign.first[row].hex(' ')}",
                    view=CODE,
                    address=start,
                )
            )
        caller = int(code.caller[rows[0]])
        if caller:
            asked = f"its area of vmalloc was asked for by {whose(road, caller)}"
            evidence.append(Evidence(what=asked, view=CODE, address=caller))
        elif not code.area[rows[0]]:
            evidence.append(Evidence(what="no area of vmalloc holds it", view=CODE, address=0))
        start, end = int(code.start[rows[0]]), int(code.end[rows[-1]])
        what = "that was given back, and still holds code" if released else "that nobody owns"
        unsure = context.acquisition.live or len(road.cut_short) >= _MANY
        severity = Severity.INFO if released else Severity.LOW if unsure else None
        yield context.finding(
            RULE,
            0,
            f"executable kernel memory at {start:#x} {what}",
            evidence,
            bounds=(start, end),
            severity=severity,
        )
