"""FRAME-RESERVED: more frames are marked reserved than the allocator of pages never got.

*Severity:* medium, confidence medium, if there is machine code in reserved frames that are no part of the kernel's
image and that the kernel may not execute. Low if there is none, or if another kernel is loaded (kexec), whose pages are
marked.

*Compared:* the frames with `PG_reserved` in every zone with those that have a struct page less `zone.managed_pages`.
Only where every struct page of every zone could be read.

*Guaranteed by:* what memblock gives to the allocator is counted (`memblock_free_all`, `__free_pages_core`), everything
else is reserved (`memmap_init_reserved_pages`, `init_unavailable_range`). Both agree to the page on kernels from 5.10
to 7.3. Drivers may mark pages they allocated (`SetPageReserved`); few still do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.frames.code_frames import code_evidence
from vmaforensics.checks.rule import BUG, Confidence, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="FRAME-RESERVED",
    title="more frames are marked reserved than the allocator never got",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    why="A reserved page is nobody's business: it is not freed, migrated, swapped or dumped. One that was allocated "
    "and then marked keeps what it holds out of every account.",
    benign=(
        "a kernel that is loaded to be started by kexec",
        "drivers that mark buffers they map into processes",
        BUG,
    ),
    attack=("T1014", "T1564"),
    compares="the number of frames with PG_reserved with the frames of all zones less their managed_pages",
    views=(View.PAGES,),
    transient="memory that is being added or taken away (memory hotplug)",
    by_hand=("crash: struct zone.zone_start_pfn,spanned_pages,managed_pages ADDRESS", "crash: kmem -p"),
    steps=("frame",),
    rank=255,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding, if there are more than there should be."""
    view = context.views.frames
    if view is None or not view.reserved.whole:
        return
    counted, expected, _ = view.reserved
    if counted <= expected:
        return
    code = view.reserved_code
    count = Evidence(
        what=f"{counted} frames are marked reserved; the allocator never got {expected} of those with a struct page",
        view=View.PAGES.label,
        address=0,
        found=str(counted),
        expected=str(expected),
    )
    evidence = [count, *(code_evidence(context, code, row, "reserved") for row in range(min(len(code), MOST)))]
    if len(code) > MOST:
        evidence.append(Evidence(what=f"and {len(code) - MOST} more like these", view="", address=0))
    many = context.pages(counted - expected)
    yield context.finding(
        RULE,
        0,
        f"{many}, are marked reserved that the allocator once had" + (", and hold code" if len(code) else ""),
        evidence,
        severity=None if len(code) and not view.kexec else Severity.LOW,
    )
