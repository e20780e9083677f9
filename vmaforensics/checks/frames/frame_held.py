"""FRAME-HELD: pages that no process maps, and something holds.

*Severity:* info, confidence medium, where a file that holds anonymous pages can be named: a pipe that took them by
vmsplice, a socket that they were spliced to, a buffer registered with io_uring, the umem of an AF_XDP socket. Low if
one of them is machine code, and for code in other memory that a file keeps (what was written to a pipe or a socket,
rings of packet sockets, BPF maps) or that a function of the kernel or of a module had mapped by vmalloc. Medium for
machine code of which no holder can be named (low in images that were taken while the machine ran), low for anonymous
pages with any other content that nobody holds (there info): resting kernels have none, one that was stopped while it
unmapped memory has those that wait for the TLB to be flushed (`struct mmu_gather`).

*Compared:* every small anonymous page that is in use (`_refcount`), is in no page table and counts no entry
(`_mapcount`), and is not in the swap cache, with what holds frames: pipes, io_uring and sockets among the open files of
all processes, those in flight over unix sockets and those registered with io_uring, and the BPF maps of `map_idr`.
Pages on their way to or from the LRU lists (the batches of each CPU) are left out, and so are parts of large folios. Of
frames that files keep and of areas of vmalloc, those that hold machine code, that the kernel may not execute, and that
no process maps.

*Guaranteed by:* the last `munmap` or `exit` frees an anonymous page unless a reference is left (`zap_pte_range`,
`folio_put`). That a buffer of the kernel holds code is legal: a program may be on its way through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.context import MOST
from vmaforensics.checks.descriptors.file_vmas import mm_of_process
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.frames.code_frames import code_evidence
from vmaforensics.checks.pages.unsettled_pages import LEAVE_PAGES
from vmaforensics.checks.road.places import FOREIGN, whose
from vmaforensics.checks.rule import BUG, SMEAR, Apart, Confidence, Rule, Severity
from vmaforensics.columns.lookup import sort_order
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.views.descriptors.holders import Holder
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.descriptors.holders import HeldFrames
    from vmaforensics.views.frames.frames import FramesView
    from vmaforensics.views.frames.unmapped import UnmappedAnon

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
    title="pages that no process maps, and something holds",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    why="A page outlives its mapping where a pipe, a socket, io_uring, a BPF map or a device holds it: code can be "
    "parked there, outside of every memory map, and be mapped or read again when it is needed.",
    benign=(
        "a program that hands memory over with vmsplice, or unmaps a registered buffer before it closes the ring",
        "a program file on its way through a pipe, a socket, a packet ring or a buffer of the kernel",
        "drivers that pin user memory: graphics, RDMA, vfio",
        SMEAR,
        BUG,
    ),
    attack=("T1564",),
    compares="anonymous pages that are in use and in no page table, and frames of files and of vmalloc that hold "
    "machine code, with pipes, io_uring, sockets and BPF maps: who holds them?",
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


class _Kept(NamedTuple):
    """Frames that something holds; arrays of one length."""

    pfn: U64
    held: I64  # row of HeldFrames, -1: no file holds it
    anon: I64  # row of UnmappedAnon, -1: it is no anonymous page
    buffer: I64  # row of BufferCode, -1: it is none
    code: Bools

    def take(self, rows: I64 | Bools) -> _Kept:
        return _Kept(self.pfn[rows], self.held[rows], self.anon[rows], self.buffer[rows], self.code[rows])


def check(context: Context) -> Iterator[Finding]:
    """One finding for each holder, one for each area of vmalloc, and one for pages of which none can be named: one for
    those with code, one for the others."""
    view, handles = context.views.frames, context.views.handles
    if view is None or handles is None:
        return
    kept = _kept(view, live=context.acquisition.live)
    named = kept.take(kept.held >= 0)
    for rows in _groups(handles.held.by[named.held]):
        yield _named(context, view, handles.held, named.take(rows))
    areas = kept.take((kept.held < 0) & (kept.buffer >= 0))
    for rows in _groups(view.buffers.areas.start[areas.buffer]):
        yield _of_area(context, view, areas.take(rows))
    unnamed = kept.take((kept.held < 0) & (kept.anon >= 0))
    for code in (True, False):
        some = unnamed.take(unnamed.code == code)
        if len(some.pfn):
            yield _unnamed(context, view, some, code=code)


def _kept(view: FramesView, *, live: bool) -> _Kept:
    """Anonymous pages that are not on their way to or from the LRU lists, and buffers with code. While the machine ran,
    a batch and its count were read at different moments."""
    rows, buffers = view.unmapped, view.buffers
    passing = rows.passing | rows.passed if live else rows.passing
    anon = np.flatnonzero((rows.held >= 0) | ~passing)
    count, many = len(anon), len(buffers.code)
    return _Kept(
        pfn=np.concatenate([rows.pfn[anon], buffers.code.pfn]),
        held=np.concatenate([rows.held[anon], buffers.held]),
        anon=np.concatenate([anon, np.full(many, -1)]),
        buffer=np.concatenate([np.full(count, -1), np.arange(many)]),
        code=np.concatenate([rows.code[anon], np.ones(many, np.bool_)]),
    )


def _groups(keys: U64) -> Iterator[I64]:
    """The rows of each distinct key."""
    order = sort_order(keys)
    starts = run_starts(begins_run(keys[order]))
    for first, last in zip(starts.tolist(), run_lasts(starts, len(keys)).tolist(), strict=True):
        yield order[first : last + 1]


def _named(context: Context, view: FramesView, held: HeldFrames, kept: _Kept) -> Finding:
    """Pages that one file or map holds."""
    first = int(kept.held[0])
    pid, fd, label = int(held.pid[first]), int(held.fd[first]), Holder(int(held.holder[first])).label
    keeper = f"{label}, descriptor {fd} of process {pid}" if fd >= 0 else f"{label} that no descriptor leads to"
    count, code, anonymous = len(kept.pfn), int(kept.code.sum()), bool((kept.anon >= 0).all())
    what = "anonymous page" if anonymous else "page"
    amount = f"{count} {what}s" if count > 1 else f"{'an' if anonymous else 'a'} {what}"
    more = f", {code} of them code" if code and count > 1 else (", machine code" if code else "")
    slots = [int(held.slot[row]) for row in kept.held[:MOST].tolist()]
    return context.finding(
        RULE,
        mm_of_process(context, pid),
        f"{amount} that no page table leads to{more}: held by {keeper}",
        _frames(context, view, kept, slots),
        severity=Severity.LOW if code else Severity.INFO,
    )


def _of_area(context: Context, view: FramesView, kept: _Kept) -> Finding:
    """Code in an area of vmalloc, or mapped like one."""
    areas, row = view.buffers.areas, int(kept.buffer[0])
    start, asker = int(areas.start[row]), _asker(context, int(areas.caller[row]))
    area = f"in the area of vmalloc at {start:#x}" if start else "that the kernel maps outside of every area of vmalloc"
    by = f", asked for by {asker}" if asker else ", asked for by nobody who is known" if start else ""
    weak = bool(asker) or context.acquisition.live
    return context.finding(
        RULE,
        0,
        f"code in {context.pages(len(kept.pfn))}, {area}{by}",
        _frames(context, view, kept, []),
        severity=Severity.LOW if weak else None,
        confidence=Confidence.LOW if weak else None,
        apart=len(kept.pfn),
        by_others=True,
    )


def _asker(context: Context, caller: int) -> str:
    """Whose code asked for an area, in words; empty if it is nobody's who is known."""
    road = context.views.road
    if road is None:
        return f"{caller:#x}" if caller else ""
    owner = int(road.owners.of(np.array([caller], np.uint64))[0])
    return whose(road, caller) if caller and owner not in FOREIGN else ""


def _unnamed(context: Context, view: FramesView, kept: _Kept, *, code: bool) -> Finding:
    """Anonymous pages that nobody who could be named holds; ``code``: they are machine code."""
    live = context.acquisition.live
    where = f"page frame {int(kept.pfn[0]):#x}" + (f" and {len(kept.pfn) - 1} more" if len(kept.pfn) > 1 else "")
    weaker = Severity.LOW if code else Severity.INFO
    return context.finding(
        RULE,
        0,
        f"{'code in ' if code else ''}{where}: anonymous pages that no page table leads to, held by nobody who could "
        "be named",
        _frames(context, view, kept, []),
        severity=weaker if live else None if code else Severity.LOW,
        confidence=Confidence.LOW if live else None,
        apart=len(kept.pfn),
        by_others=True,
    )


def _frames(context: Context, view: FramesView, kept: _Kept, slots: list[int]) -> list[Evidence]:
    """What is known of the pages, the first of them one by one."""
    found = []
    for place, (anon, buffer) in enumerate(zip(kept.anon[:MOST].tolist(), kept.buffer[:MOST].tolist(), strict=True)):
        slot = f"held by the word at {slots[place]:#x}" if slots else ""
        if anon >= 0:
            found.append(_anonymous(context, view.unmapped, anon, slot))
        else:
            found.append(code_evidence(context, view.buffers.code, buffer, slot or "the kernel's own"))
    if len(kept.pfn) > MOST:
        found.append(Evidence(what=f"and {len(kept.pfn) - MOST} more like these", view="", address=0))
    return found


def _anonymous(context: Context, rows: UnmappedAnon, row: int, slot: str) -> Evidence:
    kind = ", machine code" if rows.code[row] else ""
    return Evidence(
        what=f"page frame {int(rows.pfn[row]):#x} is anonymous{kind}, in use, and in no page table"
        + (f", {slot}" if slot else ""),
        view=View.PAGES.label,
        address=int(rows.pfn[row]) << context.views.arch.page_shift,
        found=f"{int(rows.refcount[row])} references, anon_vma {int(rows.mapping[row]):#x}",
    )
