"""FRAME-UNOWNED: code in allocated page frames that nobody accounts for.

*Severity:* medium, confidence medium. Low where a buffer that is being transferred holds the frame (its `struct page`
is followed by a length and an offset: a `bio_vec`, a fragment of a packet), in kernels that neither clear pages when
they are allocated or freed (`init_on_alloc`, `init_on_free`) nor poison them (a frame may hold what it held before),
and in images that were taken while the machine ran, of which the page and its `struct page` were read at different
moments.

*Compared:* every frame that is allocated and has none of these owners: the page cache, anonymous memory, swap cache and
hugetlb (`page.mapping`, page type), slab and large kmalloc, page tables (those of processes and the kernel's own), what
the kernel's page tables map outside of the direct map (vmalloc, modules, stacks, per-CPU memory), what page tables of
processes map, buffers of pipes, reserved memory (the kernel image, what was allocated at boot, firmware's). A thousand
or two are left on any machine. Those that the kernel may execute are left out. Of the others, what passes a test for
machine code: many instructions with 64-bit operands, calls, jumps and returns, or a stub of some hundred bytes of it
with nothing else in the page. Low, in one finding, for frames whose bytes are as evenly distributed as encrypted or
compressed ones (7.8 bits a byte), unless a variable of the kernel leads to their run: tables of random numbers
(`ip_idents`, `table_perturb`) are all that resting and busy kernels have of the kind.

*Guaranteed by:* nothing. But code is where it came from, the page cache, or where it runs: user memory, the kernel
image, modules. Kernels at rest have none elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.frames.code_frames import code_evidence
from vmaforensics.checks.pages.unsettled_pages import LEAVE_PAGES
from vmaforensics.checks.rule import BUG, SMEAR, Apart, Confidence, Rule, Severity
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import U64
    from vmaforensics.views.frames.frames import FramesView

_LARGEST = 1024  # pages of the largest allocation
_ISOLATED = _LARGEST + 31  # free frames that compaction takes for 32 pages: whole blocks (isolate_freepages_block)

RULE = Rule(
    id="FRAME-UNOWNED",
    title="code in allocated page frames that nobody accounts for",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    why="Memory can be kept without any address: pages that are taken out of the page tables while a process sleeps, "
    "or allocated by a module, hold code that no memory map, no file and no allocator's record leads to.",
    benign=(
        "a RAM disk (brd), a network card or a disk driver whose buffers hold a program that is being transferred",
        "firmware that a driver keeps for its device, if that runs x86 code",
        SMEAR,
        BUG,
    ),
    attack=("T1014", "T1564"),
    compares="allocated frames that are no slab, page table, page cache, user memory, vmalloc, reserved memory or "
    "buffer of a pipe, and that the kernel may not execute: do they hold machine code?",
    views=(View.PAGES, View.PAGE_TABLES, View.HANDLES),
    transient="a page that is being copied, before it is mapped, or that was allocated and is not cleared yet; free "
    "frames that compaction holds",
    by_hand=("crash: kmem -p PAGE", "crash: rd -p -64 ADDRESS 8"),
    steps=("frame",),
    rank=250,
    changed_by=(),
    in_flight=(*LEAVE_PAGES, Apart(Operation.ALLOCATE, _LARGEST), Apart(Operation.COMPACT, _ISOLATED)),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each run of frames with code, and one for those that look encrypted."""
    view = context.views.frames
    if view is None or not view.whole:
        return
    code = view.code
    if len(view.random):
        yield _random(context, view.random)
    starts = run_starts(begins_run(code.first))
    for first, last in zip(starts.tolist(), run_lasts(starts, len(code)).tolist(), strict=True):
        yield _finding(context, view, first, last)


def _finding(context: Context, view: FramesView, first: int, last: int) -> Finding:
    code, arch = view.code, context.views.arch
    count = last - first + 1
    evidence = [
        code_evidence(context, code, row, "allocated and has no owner")
        for row in range(first, min(last + 1, first + MOST))
    ]
    if count > MOST:
        evidence.append(Evidence(what=f"and {count - MOST} more like these", view="", address=0))
    near = np.isin(view.pointers.pfn, code.pfn[first : last + 1])
    pointing = np.flatnonzero(near)
    evidence += [_pointer(view, row) for row in pointing[:MOST].tolist()]
    if not len(pointing):
        evidence.append(Evidence(what="no word in kernel memory leads there", view=View.PAGES.label, address=0))
    weak = context.acquisition.live or not view.cleared or bool(view.pointers.piece[pointing].any())
    where = f"page frame {int(code.pfn[first]):#x}"
    title = f"code in {where}" if count == 1 else f"code in {where} and {count - 1} more beside it"
    return context.finding(
        RULE,
        0,
        f"{title} that nobody accounts for: physical {int(code.pfn[first]) << arch.page_shift:#x}",
        evidence,
        severity=Severity.LOW if weak else None,
        confidence=Confidence.LOW if weak else None,
        apart=count,
        by_others=True,
    )


def _random(context: Context, pfns: U64) -> Finding:
    """Frames that look encrypted or compressed."""
    shift = context.views.arch.page_shift
    evidence = [
        Evidence(
            what=f"page frame {pfn:#x} is allocated and has no owner; its bytes are spread as evenly as random ones",
            view=View.PAGES.label,
            address=pfn << shift,
        )
        for pfn in pfns[:MOST].tolist()
    ]
    if len(pfns) > MOST:
        evidence.append(Evidence(what=f"and {len(pfns) - MOST} more like these", view="", address=0))
    evidence.append(Evidence(what="no variable of the kernel leads there", view=View.PAGES.label, address=0))
    return context.finding(
        RULE,
        0,
        f"{context.pages(len(pfns))}, that nobody accounts for, look encrypted or compressed",
        evidence,
        severity=Severity.LOW,
        confidence=Confidence.LOW,
        apart=len(pfns),
        by_others=True,
    )


def _pointer(view: FramesView, row: int) -> Evidence:
    """Who points at a frame."""
    return Evidence(
        what=f"a word in {view.places[row]} leads to page frame {int(view.pointers.pfn[row]):#x}",
        view=View.PAGES.label,
        address=int(view.pointers.pa[row]),
        found=f"{int(view.pointers.word[row]):#x}",
    )
