"""VMA-MISSING: VMA has been taken out of the memory map.

*Severity:* high, confidence medium where the size of the place found is not just what the counters lack, or where the
counters agree.

*Compared:* `map_count`, `total_vm`, `exec_vm`, `stack_vm` and `data_vm` with the VMAs of all indices together, where
all of them could be read. Fewer VMAs, or as many VMAs with fewer pages, and no fewer pages counted than there are.
Address spaces with a VMA under another index range than its own are left to VMA-RANGE and MM-COUNTER. The place is
looked for among the empty ranges of just that size (`checks/indices/holes.py`): first one that the maple tree's own
records do not allow, then one between two VMAs of one file whose offsets leave that room. With agreeing counters, a
single empty slot below 1 TiB that makes the recorded gap of its leaf wrong is reported as *counters repaired*.

*Guaranteed by:* `vm_stat_account` and the changes of `map_count` beside each insertion and removal (mm/mmap.c;
mm/vma.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.context import hull
from vmaforensics.checks.finding import Confidence, Evidence
from vmaforensics.checks.indices.holes import Hole, Holes
from vmaforensics.checks.rule import INDICES, LAGS, Part, Rule, Severity
from vmaforensics.checks.vmas.counters import Difference, Way, differences
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

_CLASSES = ("executable", "stack", "writable private")  # what exec_vm, stack_vm and data_vm count
_MOST_PLACES = 8  # where VMAs may have been, shown of an address space
_MOST_LOST = 16  # ranges that no leaf covers

RULE = Rule(
    id="VMA-MISSING",
    title="VMA has been taken out of the memory map",
    severity=Severity.HIGH,
    why="The index of the memory map holds fewer VMAs or pages than the kernel counted in. The VMA's pages stay "
    "mapped and usable, while /proc/PID/maps and every tool that walks the index leave it out.",
    compares="map_count, total_vm, exec_vm, stack_vm and data_vm with the VMAs of all indices together: fewer VMAs "
    "or pages than counted. The place is looked for among the empty ranges of just that size",
    views=(View.COUNTERS, *INDICES, View.VMA),
    transient="munmap has emptied the index before total_vm follows: under the write lock, then the read lock. "
    "expand_downwards raises total_vm first, in 5.10 under the read lock",
    by_hand=(hand.COUNTERS, hand.VM, hand.VMAS),
    steps=("counters", "index", "tree", "list", "vma", "memory"),
    part=Part.CAUSE,
    rank=20,
    hides=True,
    count=True,
    excused_by=LAGS,
)


def check(context: Context) -> Iterator[Finding]:
    """Address spaces that lack VMAs or pages that were counted in; empty slots the maple tree does not allow."""
    missing = [difference for difference in context.shared(differences) if difference.way is Way.TOO_FEW]
    for difference in missing:
        yield _of_counters(context, difference)
    known = {difference.mm for difference in missing}
    for mm, hole in context.shared(Holes).lone():
        if mm not in known:
            yield _repaired(context, mm, hole)


def _of_counters(context: Context, difference: Difference) -> Finding:
    """VMAs that the counters say are missing: at the one place that fits, or at any of several."""
    lacks = difference.lacks
    vmas, total = lacks.map_count, lacks.total_vm
    classes = zip(_CLASSES, (lacks.exec_vm, lacks.stack_vm, lacks.data_vm), strict=True)
    kind = next((word for word, lack in classes if total and lack == total), "")
    size = total * context.views.arch.page_size
    places = context.shared(Holes).candidates(difference.mm, size) if vmas <= 1 else []
    if len(places) == 1:
        return _at(context, difference, places[0], kind)
    return _somewhere(context, difference, places, kind)


def _at(context: Context, difference: Difference, place: Hole, kind: str) -> Finding:
    what = f"{kind} VMA" if kind else "VMA"
    verb = "has been taken out of" if difference.lacks.map_count else "is counted in and in no VMA of"
    size, page_size = place.end - place.start, context.views.arch.page_size
    title = (
        f"{what} {place.start:#x}-{place.end:#x} ({context.pages(size // page_size)}) {verb} the {context.index.label}"
    )
    exact = size == difference.lacks.total_vm * page_size
    return context.finding(
        RULE,
        difference.mm,
        title,
        [*difference.evidence, *_of_hole(place)],
        bounds=(place.start, place.end),
        confidence=Confidence.HIGH if exact else Confidence.MEDIUM,
    )


def _somewhere(context: Context, difference: Difference, places: list[Hole], kind: str) -> Finding:
    """The finding where the counters lack VMAs or pages that no single hole of the index explains.

    ``places`` are the holes that may be meant, ``kind`` is what the counters say of the VMAs ("executable"), or empty.
    """
    mm, vmas, total = difference.mm, difference.lacks.map_count, difference.lacks.total_vm
    mms, row = context.views.mms, difference.mm_row
    what = counted(vmas, f"{kind} VMA" if kind else "VMA") if vmas else "part of a VMA"
    title = (
        f"{what} ({context.pages(total)}) {'has' if vmas <= 1 else 'have'} been taken out of the {context.index.label}"
    )
    if mms.ma_root[row] == 0 and context.index is View.MAPLE:
        title += ": its root is empty"
    evidence = list(difference.evidence)
    for place in places[:_MOST_PLACES]:
        evidence += _of_hole(place)
    lost = _uncovered(context, mm, int(mms.task_size[row]))
    evidence += [
        Evidence(what=f"no leaf covers {start:#x}-{end:#x}", view=View.MAPLE.label, address=mm) for start, end in lost
    ]
    ranges = lost or [(place.start, place.end) for place in places]
    return context.finding(
        RULE,
        mm,
        title,
        evidence,
        bounds=hull(ranges),
    )


def _of_hole(hole: Hole) -> list[Evidence]:
    why = "is empty, which the tree's own records do not allow" if hole.suspect else "is free"
    view = View.MAPLE.label if hole.where else View.VMA.label
    text = f"the range {hole.start:#x}-{hole.end:#x} {why}"
    return [Evidence(what=text, view=view, address=hole.where), *([hole.file] if hole.file else [])]


def _uncovered(context: Context, mm: int, top: int) -> list[tuple[int, int]]:
    """Ranges below ``top`` that no leaf of a maple tree covers: where subtrees were lost."""
    nodes = context.views.maple_nodes
    if context.index is not View.MAPLE:
        return []
    leaves = np.flatnonzero((nodes.mm == np.uint64(mm)) & nodes.leaf)
    covered = sorted(zip(nodes.low[leaves].tolist(), nodes.high[leaves].tolist(), strict=True))
    lost, reach = [], 0
    for low, high in [*covered, (top, top)]:
        if low > reach:
            lost.append((reach, low))
        reach = max(reach, high + 1)
    return lost[:_MOST_LOST]


def _repaired(context: Context, mm: int, hole: Hole) -> Finding:
    """The counters agree with the tree, but the tree's own records do not allow an empty range."""
    title = f"VMA {hole.start:#x}-{hole.end:#x} has been taken out of the {context.index.label}, counters repaired"
    return context.finding(RULE, mm, title, _of_hole(hole), bounds=(hole.start, hole.end), confidence=Confidence.MEDIUM)
