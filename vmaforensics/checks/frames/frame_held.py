"""FRAME-HELD: anonymous pages that no process maps any more, and something holds.

*Severity:* info, confidence medium, where a file that holds them can be named: a pipe that took them by vmsplice, a
buffer registered with io_uring, the umem of an AF_XDP socket; low if one of them is machine code. Medium where nobody
can be named and the page is machine code (low in images that were taken while the machine ran).

*Compared:* every small anonymous page that is in use (`_refcount`), is in no page table and counts no entry
(`_mapcount`), and is not in the swap cache, with what holds frames: pipes, io_uring and AF_XDP sockets among the open
files of all processes, those in flight over unix sockets and those registered with io_uring. Pages on their way to or
from the LRU lists (the batches of each CPU) are left out, and so are parts of large folios.

*Guaranteed by:* the last `munmap` or `exit` frees an anonymous page unless a reference is left (`zap_pte_range`,
`folio_put`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import MOST
from vmaforensics.checks.descriptors.file_vmas import mm_of_process
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.unsettled_pages import LEAVE_PAGES
from vmaforensics.checks.rule import BUG, SMEAR, Apart, Confidence, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.descriptors.held_frames import Holder
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64
    from vmaforensics.views.descriptors.held_frames import HeldFrames
    from vmaforensics.views.frames.frames import FramesView

# Pages whose entries are gone wait in batches until the TLB was flushed (MAX_GATHER_BATCH_COUNT, asm-generic/tlb.h).
_UNMAPS = (
    Operation.ZAP,
    Operation.TABLE,
    Operation.UNMAP,
    Operation.MAP,
    Operation.MOVE,
    Operation.EXEC,
    Operation.EXIT,
)
_GATHERED = 10_000

RULE = Rule(
    id="FRAME-HELD",
    title="anonymous pages that no process maps, and something holds",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    why="A page outlives its mapping where a pipe, io_uring or a device holds a reference: code can be parked there, "
    "outside of every memory map, and be mapped or read again when it is needed.",
    benign=(
        "a program that hands memory over with vmsplice, or unmaps a registered buffer before it closes the ring",
        "drivers that pin user memory: graphics, RDMA, vfio",
        SMEAR,
        BUG,
    ),
    attack=("T1564",),
    compares="anonymous pages that are in use and in no page table, with pipes, buffers registered with io_uring and "
    "AF_XDP sockets: who holds them, and are they machine code?",
    views=(View.PAGES, View.PAGE_TABLES, View.HANDLES),
    transient="between the entry and the last reference, while memory is unmapped, migrated or reclaimed",
    by_hand=("crash: struct page._refcount,_mapcount PAGE", "crash: files PID"),
    steps=("frame", "descriptors"),
    rank=611,
    changed_by=(),
    in_flight=(
        *(apart for apart in LEAVE_PAGES if apart.operation not in _UNMAPS),
        *(Apart(operation, _GATHERED) for operation in _UNMAPS),
    ),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each holder, and one for the code of which none can be named."""
    view, handles = context.views.frames, context.views.handles
    if view is None or handles is None:
        return
    rows = view.unmapped
    by = values_at(handles.held.by, rows.held)
    for holder in np.unique(by[rows.held >= 0]).tolist():
        yield _named(context, view, handles.held, np.flatnonzero((by == holder) & (rows.held >= 0)))
    unnamed = np.flatnonzero((rows.held < 0) & ~rows.passing & rows.code)
    if len(unnamed):
        yield _unnamed(context, view, unnamed)


def _named(context: Context, view: FramesView, held: HeldFrames, at: I64) -> Finding:
    """Pages that one file holds."""
    first = int(view.unmapped.held[at[0]])
    pid, label = int(held.pid[first]), Holder(int(held.holder[first])).label
    keeper = f"{label}, descriptor {int(held.fd[first])} of process {pid}"
    code = int(view.unmapped.code[at].sum())
    amount = f"{len(at)} anonymous pages" if len(at) > 1 else "an anonymous page"
    more = f", {code} of them code" if code and len(at) > 1 else (", machine code" if code else "")
    return context.finding(
        RULE,
        mm_of_process(context, pid),
        f"{amount} that no page table leads to{more}: held by {keeper}",
        _frames(context, view, at, [int(held.slot[row]) for row in view.unmapped.held[at[:MOST]].tolist()]),
        severity=Severity.LOW if code else Severity.INFO,
    )


def _unnamed(context: Context, view: FramesView, at: I64) -> Finding:
    """Code that nobody who could be named holds."""
    live = context.acquisition.live
    where = f"page frame {int(view.unmapped.pfn[at[0]]):#x}"
    return context.finding(
        RULE,
        0,
        f"code in {where}" + (f" and {len(at) - 1} more" if len(at) > 1 else "") + ": anonymous pages that no page "
        "table leads to, held by nobody who could be named",
        _frames(context, view, at, []),
        severity=Severity.LOW if live else None,
        confidence=Confidence.LOW if live else None,
        apart=len(at),
        by_others=True,
    )


def _frames(context: Context, view: FramesView, at: I64, slots: list[int]) -> list[Evidence]:
    """What is known of the pages, the first of them one by one."""
    rows, shift = view.unmapped, context.views.arch.page_shift
    found = []
    for place, row in enumerate(at[:MOST].tolist()):
        slot = f", held by the word at {slots[place]:#x}" if slots else ""
        kind = ", machine code" if rows.code[row] else ""
        found.append(
            Evidence(
                what=f"page frame {int(rows.pfn[row]):#x} is anonymous{kind}, in use, and in no page table{slot}",
                view=View.PAGES.label,
                address=int(rows.pfn[row]) << shift,
                found=f"{int(rows.refcount[row])} references, anon_vma {int(rows.mapping[row]):#x}",
            )
        )
    if len(at) > MOST:
        found.append(Evidence(what=f"and {len(at) - MOST} more like these", view="", address=0))
    return found
