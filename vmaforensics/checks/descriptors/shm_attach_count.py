"""SHM-ATTACH-COUNT: System V segment is attached more or less often than VMAs show.

*Severity:* high; medium where there are more VMAs than counted; low where some process was exiting or some mmap lock
was write-held.

*Compared:* `shm_nattch` of each segment with the number of VMAs that map it, over all processes. Fewer VMAs are
reported only where every process and VMA could be read. If the segment's `i_mmap` leads to a VMA that no index has,
that VMA and its process are named; else the process that attached last.

*Guaranteed by:* `shm_open` and `shm_close` (ipc/shm.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.context import MOST
from vmaforensics.checks.descriptors.file_vmas import file_vmas, mm_of_process
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUSY, INDICES, REINDEXES, SMEAR, Confidence, Part, Rule, Severity
from vmaforensics.columns.lookup import bounds_of, difference, sort_order
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.problems import Problem
from vmaforensics.views.processes.tasks import PF_EXITING
from vmaforensics.views.structures.lock import Lock
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import U64
    from vmaforensics.views.descriptors.sysv import Segments


RULE = Rule(
    id="SHM-ATTACH-COUNT",
    title="System V segment is attached more or less often than VMAs show",
    severity=Severity.HIGH,
    why="shm_nattch counts the VMAs that map a segment, in all processes together. If VMAs are missing they "
    "have been hidden.",
    benign=(SMEAR, BUSY, "a process that attaches or exits at that moment", "a memory map that outlives its process"),
    compares="shm_nattch of each System V segment with the number of VMAs that map it, over all processes",
    views=(View.HANDLES, *INDICES),
    transient="the count changes before or after the VMA does; lowered where a process was exiting or a map write-held",
    by_hand=("crash: ipcs -m", hand.VM),
    steps=("segments", "word", "vma"),
    part=Part.CAUSE,
    rank=220,
)


class _Place(NamedTuple):
    """What a finding is about: an address space, and in it the range of a VMA that no index has, if one is known."""

    mm: int
    bounds: tuple[int, int] | None = None


def check(context: Context) -> Iterator[Finding]:
    """One finding for each segment, or for each hidden VMA that its i_mmap still leads to."""
    handles = context.views.handles
    if handles is None:
        return
    segments, mapped = handles.segments, context.shared(file_vmas)
    order = sort_order(mapped.mapping)
    mapping, vmas = mapped.mapping[order], context.views.vmas.vma[mapped.vma_row[order]]
    whole, still = _all_read(context), _at_rest(context)
    for row in np.flatnonzero(segments.mapping != 0).tolist():
        low, high = bounds_of(mapping, segments.mapping[row])
        lacking = int(segments.nattch[row]) - (high - low)
        # VMAs may be missing because they could not be read.
        if lacking == 0 or (lacking > 0 and not whole):
            continue
        title, evidence = _title(context, segments, row, lacking), _evidence(context, segments, row, vmas[low:high])
        hidden = _hidden(context, int(segments.mapping[row]), vmas[low:high]) if lacking > 0 else []
        for place in hidden or [_Place(_last_user(context, segments, row))]:
            yield context.finding(
                RULE,
                place.mm,
                title,
                evidence,
                bounds=place.bounds,
                severity=Severity.LOW if not still else Severity.MEDIUM if lacking < 0 else None,
                confidence=None if still else Confidence.LOW,
            )


def _title(context: Context, segments: Segments, row: int, lacking: int) -> str:
    number, nattch = int(segments.id[row]), int(segments.nattch[row])
    if lacking < 0:
        return f"System V segment {number} is mapped by {nattch - lacking} VMAs and counts {nattch}"
    size = context.pages(-(-int(segments.size[row]) // context.views.arch.page_size))
    if lacking == 1:
        return f"1 VMA that maps System V segment {number} ({size}) is hidden"
    return f"{lacking} VMAs that map System V segment {number} ({size}) are hidden"


def _evidence(context: Context, segments: Segments, row: int, vmas: U64) -> list[Evidence]:
    """The count, and the VMAs that map the segment."""
    nattch, found = int(segments.nattch[row]), len(vmas)
    count = Evidence(
        what=f"shm_nattch of segment {int(segments.id[row])} is {nattch}, {found} VMAs map it",
        view=View.HANDLES.label,
        address=int(segments.nattch_at[row]),
        found=str(nattch),
        expected=str(found),
    )
    mapping = [
        Evidence(what=f"the {context.vma_in_words(vma)}", view=View.VMA.label, address=vma)
        for vma in vmas[:MOST].tolist()
    ]
    return [count, *mapping]


def _hidden(context: Context, mapping: int, known: U64) -> list[_Place]:
    """VMAs that the i_mmap of a file leads to, of address spaces there are, and that no index has."""
    rmap = context.views.rmap
    if rmap is None:
        return []
    vmas = rmap.vmas
    rows = rmap.vma_rows(difference(rmap.file_nodes.vma[rmap.file_nodes.tree == np.uint64(mapping)], known))
    rows = rows[(rows >= 0) & vmas.ok[rows] & (context.views.mm_rows(vmas.mm[rows]) >= 0)][:MOST]
    return [
        _Place(mm, (start, end))
        for mm, start, end in zip(
            vmas.mm[rows].tolist(), vmas.start[rows].tolist(), vmas.end[rows].tolist(), strict=True
        )
    ]


def _last_user(context: Context, segments: Segments, row: int) -> int:
    """The mm of the process that attached last, else of that which made the segment; 0 for none.

    Who hides a VMA is known where i_mmap still has it; else, who attached last may be it.
    """
    last = mm_of_process(context, int(segments.last_pid[row]))
    return last or mm_of_process(context, int(segments.creator_pid[row]))


def _all_read(context: Context) -> bool:
    """Were all tasks, and all VMAs of all of them, read?"""
    views, problems = context.views, context.views.problems
    lost = np.isin(problems.problem, (Problem.UNREADABLE, Problem.CUT_SHORT))
    if (lost & np.isin(problems.view, (View.TASKS, View.FILES))).any() or not views.mms.ok.all():
        return False
    return all(bool(context.decoded(view, views.mms.mm).all()) for view in views.indices())


def _at_rest(context: Context) -> bool:
    """Was no memory map being changed or torn down?"""
    tasks, mms, operations = context.views.tasks, context.views.mms, context.views.operations
    if operations is not None:
        kinds = [int(kind) for kind in (*REINDEXES, Operation.EXIT)]
        if np.isin(operations.under_way.operation, kinds).any():
            return False
        if operations.all_clear and not len(operations.unclear):
            return True
    leaving = ((tasks.flags & PF_EXITING) != 0) & (tasks.exit_state == 0)
    return not leaving.any() and not (mms.lock == Lock.WRITE).any()
