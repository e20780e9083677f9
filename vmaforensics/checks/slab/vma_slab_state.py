"""VMA-SLAB-STATE: VMA in the memory map was never allocated, or has been freed.

*Compared:* the VMAs of all indices with the slab cache: does each lie in it, on an object that is allocated?

*Guaranteed by:* `vm_area_alloc` and `vm_area_dup` (kernel/fork.c, later mm/vma_init.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, Part, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="VMA-SLAB-STATE",
    title="VMA in the memory map was never allocated, or has been freed",
    severity=Severity.HIGH,
    why="The kernel takes every vm_area_struct from one slab cache. One that lies elsewhere was made by hand; one "
    "that is free there shows what the VMA has been, not what it is.",
    compares="every VMA of the index with the slab cache of such structures: it lies there and is allocated",
    views=(View.SLAB, *INDICES),
    transient="exit frees the VMAs while the tree still leads to them; such an mm_struct has no users",
    by_hand=(hand.SLAB,),
    steps=("slab", "vma", "word", "index"),
    part=Part.CAUSE,
    rank=70,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process in use with such VMAs in the index the kernel uses."""
    slab, views = context.views.slab, context.views
    if slab is None or not len(views.mms):
        return
    entries = views.index
    outside = np.isin(entries.vma, views.strays.foreign if views.strays is not None else [])
    freed = slab.states(entries.vma, ObjectKind.VMA) == State.FREE
    in_use = values_at(views.mms.users > 0, views.mm_rows(entries.mm))
    rows = np.flatnonzero(in_use & (freed | outside))

    def state(at: int) -> str:
        return "lies outside the cache of such structures" if outside[rows[at]] else "is free in its slab"

    def evidence(at: int) -> Evidence:
        return Evidence(
            what=f"the {context.index.label} leads to a vm_area_struct that {state(at)}",
            view=View.SLAB.label,
            address=int(entries.slot[rows[at]]),
            found=f"{int(entries.vma[rows[at]]):#x}",
        )

    def title(at: int) -> str:
        return f"the vm_area_struct of the {context.vma_in_words(int(entries.vma[rows[at]]))} {state(at)}"

    def bounds(at: int) -> tuple[int, int]:
        return int(entries.start[rows[at]]), int(entries.end[rows[at]])

    yield from context.per_mm(RULE, entries.mm[rows], evidence, title, bounds)
