"""VMA-SLAB-ORPHAN: VMA is alive and in no index of the memory map.

*Compared:* the allocated objects of the slab cache of `vm_area_struct` with the VMAs of all indices.

*Guaranteed by:* a VMA is marked detached (`detached` in 6.4 to 6.14, `vm_refcnt` from 6.15 on) and freed by the same
code that takes it out of the index.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.context import vma_text
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, INSERTS, LAGS, REINDEXES, Part, Rule, Severity
from vmaforensics.checks.slab.cut_out import WHYS, cut_out
from vmaforensics.columns.lookup import difference, values_at
from vmaforensics.views.problems import Problem
from vmaforensics.views.slab.objects import State
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.slab.strays import StrayVmas

RULE = Rule(
    id="VMA-SLAB-ORPHAN",
    title="VMA is alive and in no index of the memory map",
    severity=Severity.HIGH,
    why="The kernel takes a VMA out of the index and marks and frees its vm_area_struct under one lock. One "
    "that is allocated, unmarked and in no index was cut out by hand; its pages stay mapped and usable.",
    compares="allocated vm_area_structs whose own marks say that they are attached (vm_refcnt, detached) and whose "
    "vm_mm is that of a process, with the VMAs of its indices",
    views=(View.SLAB, *INDICES),
    transient="munmap up to 6.3 frees a VMA after it left the index, under the write lock, then the read lock; later "
    "kernels mark it first. fork, mmap and splits allocate one before they insert it",
    by_hand=(
        "crash: kmem -S vm_area_struct",
        'drgn: slab_cache_for_each_allocated_object(cache, "struct vm_area_struct")',
        hand.VM,
    ),
    steps=("slab", "vma", "index", "tree", "list"),
    part=Part.CAUSE,
    rank=60,
    hides=True,
    excused_by=LAGS,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process whose indices were read whole."""
    found = context.views.strays
    if found is None:
        return
    cut = cut_out(context, found)
    for place, why in enumerate(WHYS):
        for finding in _findings(context, found, cut.rows[cut.why == place], cut.slot[cut.why == place]):
            yield replace(finding, proven=why)
    yield from _findings(context, found, difference(orphans(context, found), cut.rows))


def _findings(context: Context, found: StrayVmas, rows: I64, slots: U64 | None = None) -> Iterator[Finding]:
    strays = found.vmas

    def text(row: int) -> str:
        return vma_text(int(strays.flags[row]), int(strays.start[row]), int(strays.end[row]), found.names[row])

    def evidence(at: int) -> Evidence:
        row = int(rows[at])
        mark = f", vm_refcnt {int(strays.refcnt[row]):#x}" if strays.refcnt[row] >= 0 else ""
        what = f"the {text(row)} is an allocated vm_area_struct{mark} of this mm, and in no index of it"
        if slots is not None:
            what += f"; the slot at {int(slots[at]):#x} of the maple tree, where it belongs, is empty"
        return Evidence(
            what=what,
            view=View.SLAB.label,
            address=int(strays.vma[row]),
            found=State(int(found.state[row])).text,
            expected=f"in the {context.index.label}",
        )

    def title(at: int) -> str:
        return f"{text(int(rows[at]))} is alive and in no index of the memory map"

    def bounds(at: int) -> tuple[int, int]:
        return int(strays.start[rows[at]]), int(strays.end[rows[at]])

    for finding in context.per_mm(RULE, strays.mm[rows], evidence, title, bounds):
        # By vm_refcnt (6.15) a VMA is attached right before it enters the index, and not any more when it leaves it.
        counted = (strays.refcnt[rows[strays.mm[rows] == np.uint64(finding.mm)]] >= 1).all()
        yield replace(finding, changed_by=INSERTS) if counted else finding


def orphans(context: Context, found: StrayVmas) -> I64:
    """Rows of ``found.vmas`` that are alive and belong to an address space in use, in none of whose indices they are.

    Attached, by the kernel's own mark, from 6.4 on; before, munmap frees a VMA while it holds the lock.
    """
    strays, views = found.vmas, context.views
    mms, owner = views.mms, views.mm_rows(strays.mm)
    # Where the lists of free objects are incomplete, vm_refcnt (6.15) still says which are live.
    alive = (found.state == State.ALLOCATED) | ((found.state == State.UNKNOWN) & (strays.refcnt >= 1))
    task_size = values_at(mms.task_size, owner)
    fits = values_at(mms.ok & (mms.users > 0), owner) & ((task_size == 0) | (strays.end <= task_size))
    for view in views.indices():
        fits &= context.whole(view, strays.mm)
    forked = views.problems.mm[views.problems.problem == Problem.RESERVED]  # VMAs behind a failed fork are in no tree
    return np.flatnonzero(alive & found.attached & fits & ~np.isin(strays.mm, forked))
