"""The counters of ``mm_struct`` against the areas, and what a difference means.

vm_stat_account (mm/mmap.c; mm/vma.c) keeps them exact while the mmap lock is free. Areas are counted over
the union of all index views: what one view hides and another shows is VMA-UNLINKED, not missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.context import allows, pages
from vmaforensics.checks.finding import Confidence, Evidence, Severity
from vmaforensics.checks.indices.holes import Hole, Holes
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

EXACT = ("map_count", "total_vm", "exec_vm", "stack_vm", "data_vm")

_CLASS_OF = {"exec_vm": "executable", "stack_vm": "stack", "data_vm": "writable private"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What the areas of each mm add up to; arrays as long as ``mms``, in pages (``map_count``: areas)."""

    columns: dict[str, NDArray[np.int64]]
    locked: NDArray[np.int64]
    known: NDArray[np.bool_]  # every area of the mm could be read


def sum_areas(context: Context) -> Sums:
    """Count the areas of every mm over the union of the index views, as vm_stat_account would; done once."""
    return context.shared(_sum_areas)


def _sum_areas(context: Context) -> Sums:
    views = context.views
    union = views.union
    owner = views.mm_rows(union["mm"])
    vmas = views.vmas[union["vma_row"]]
    keep = (owner >= 0) & vmas["ok"]
    count = len(views.mms)
    owner, vmas = owner[keep], vmas[keep]
    size = ((vmas["end"] - vmas["start"]) >> np.uint64(12)).astype(np.int64)
    vm_flags = vmas["flags"]
    stack = (vm_flags & np.uint64(flags.VM_GROWSDOWN)) != 0
    growing = np.uint64(flags.VM_EXEC | flags.VM_WRITE | flags.VM_GROWSDOWN)
    is_exec = (vm_flags & growing) == np.uint64(flags.VM_EXEC)
    if views.shadow_stacks:
        stack |= (vm_flags & np.uint64(flags.VM_SHADOW_STACK)) != 0
    private = np.uint64(flags.VM_WRITE | flags.VM_SHARED | flags.VM_GROWSDOWN)
    is_data = ~is_exec & ~stack & ((vm_flags & private) == np.uint64(flags.VM_WRITE))
    locked = (vm_flags & np.uint64(flags.VM_LOCKED)) != 0

    def total(which: NDArray[np.bool_]) -> NDArray[np.int64]:
        summed = np.zeros(count, np.int64)
        np.add.at(summed, owner[which], size[which])
        return summed

    everything = np.ones(len(owner), np.bool_)
    known = np.ones(count, np.bool_)
    for view in views.regions():
        known &= context.decoded(view, views.mms["mm"])
    return Sums(
        columns={
            "map_count": np.bincount(owner, minlength=count).astype(np.int64),
            "total_vm": total(everything),
            "exec_vm": total(is_exec),
            "stack_vm": total(stack & ~is_exec),
            "data_vm": total(is_data),
        },
        locked=total(locked),
        known=known & views.mms["ok"],
    )


def check_counters(context: Context) -> Iterator[Finding]:
    """VMA-MISSING, VMA-SURPLUS and MM-COUNTER."""
    views = context.views
    sums = sum_areas(context)
    deficit = {name: views.mms[name].astype(np.int64) - sums.columns[name] for name in EXACT}
    off = sums.known & np.logical_or.reduce([values != 0 for values in deficit.values()])
    resized = _resized(context)
    holes = Holes(context)
    told = set()
    for row in np.flatnonzero(off).tolist():
        mm = int(views.mms["mm"][row])
        lacks = {name: int(values[row]) for name, values in deficit.items()}
        evidence = _counter_evidence(context, row, lacks)
        areas, total = lacks["map_count"], lacks["total_vm"]
        if mm not in resized and (areas > 0 or (areas == 0 and total > 0)) and total >= 0:
            yield from _missing(context, row, lacks, evidence, holes)
            told.add(mm)
        elif mm not in resized and (areas < 0 or (areas == 0 and total < 0)) and total <= 0:
            yield _surplus(context, mm, lacks, evidence)
        else:
            yield _counter(context, mm, lacks, evidence)
    for mm, hole in holes.lone():
        if mm not in told:
            yield _repaired(context, mm, hole)
    yield from _locked(context, sums)


def _resized(context: Context) -> set[int]:
    """Address spaces with an area whose index range is not its own: that explains page counts."""
    rows = context.views.maple
    if rows is None:
        return set()
    vmas = context.views.vmas[rows["vma_row"]]
    differ = vmas["ok"] & ((rows["start"] != vmas["start"]) | (rows["end"] != vmas["end"]))
    return set(rows["mm"][differ].tolist())


def _counter_evidence(context: Context, row: int, lacks: dict[str, int]) -> list[Evidence]:
    one = context.views.mms[row]
    return [
        Evidence(
            what=f"{name} is {int(one[name])}, the areas add up to {int(one[name]) - difference}",
            view=View.COUNTERS.label,
            address=int(one["mm"]) + context.views.mm_offsets[name],
            found=str(int(one[name])),
            expected=str(int(one[name]) - difference),
        )
        for name, difference in lacks.items()
        if difference
    ]


def _missing(
    context: Context, row: int, lacks: dict[str, int], evidence: list[Evidence], holes: Holes
) -> Iterator[Finding]:
    one = context.views.mms[row]
    mm, areas, total = int(one["mm"]), lacks["map_count"], lacks["total_vm"]
    index = context.index.label
    kind = next((word for name, word in _CLASS_OF.items() if total and lacks[name] == total), "")
    places = holes.candidates(mm, total << 12) if areas <= 1 else []
    if len(places) == 1:
        place = places[0]
        what = f"{kind} area" if kind else "area"
        verb = "has been taken out of" if areas else "is counted in and in no area of"
        title = f"{what} {place.start:#x}-{place.end:#x} ({pages((place.end - place.start) >> 12)}) {verb} the {index}"
        exact = place.end - place.start == total << 12
        yield context.finding(
            rules.MISSING,
            mm,
            title,
            [*evidence, *_of_hole(place)],
            start=place.start,
            end=place.end,
            confidence=Confidence.HIGH if exact else Confidence.MEDIUM,
        )
        return
    what = f"{areas} {kind + ' ' if kind else ''}area{'s' if areas != 1 else ''}" if areas else "part of an area"
    title = f"{what} ({pages(total)}) ha{'s' if areas <= 1 else 've'} been taken out of the {index}"
    if int(one["ma_root"]) == 0 and context.index is View.MAPLE:
        title += ": its root is empty"
    for place in places[:8]:
        evidence += _of_hole(place)
    lost = _uncovered(context, mm, int(one["task_size"]))
    evidence += [
        Evidence(what=f"no leaf covers {start:#x}-{end:#x}", view=View.MAPLE.label, address=mm) for start, end in lost
    ]
    spans = lost or [(place.start, place.end) for place in places]
    yield context.finding(
        rules.MISSING,
        mm,
        title,
        evidence,
        start=min((start for start, _ in spans), default=None),
        end=max((end for _, end in spans), default=None),
    )


def _of_hole(hole: Hole) -> list[Evidence]:
    why = "is empty, which the tree's own records do not allow" if hole.suspect else "is free"
    view = View.MAPLE.label if hole.where else View.VMA.label
    text = f"the range {hole.start:#x}-{hole.end:#x} {why}"
    return [Evidence(what=text, view=view, address=hole.where), *([hole.file] if hole.file else [])]


def _uncovered(context: Context, mm: int, top: int) -> list[tuple[int, int]]:
    """Index ranges below ``top`` that no leaf of a maple tree covers: where subtrees were lost."""
    nodes = context.views.maple_nodes
    if context.index is not View.MAPLE:
        return []
    mine = np.flatnonzero((nodes.mm == np.uint64(mm)) & nodes.leaf)
    spans = sorted(zip(nodes.low[mine].tolist(), nodes.high[mine].tolist(), strict=True))
    lost, reach = [], 0
    for low, high in [*spans, (top, top)]:
        if low > reach:
            lost.append((reach, low))
        reach = max(reach, high + 1)
    return lost[:16]


def _repaired(context: Context, mm: int, hole: Hole) -> Finding:
    """The counters agree with the tree, but the tree's own records do not allow an empty range."""
    title = f"area {hole.start:#x}-{hole.end:#x} has been taken out of the {context.index.label}, counters repaired"
    return context.finding(
        rules.MISSING, mm, title, _of_hole(hole), start=hole.start, end=hole.end, confidence=Confidence.MEDIUM
    )


def _surplus(context: Context, mm: int, lacks: dict[str, int], evidence: list[Evidence]) -> Finding:
    areas, total = -lacks["map_count"], -lacks["total_vm"]
    what = f"{areas} area{'s' if areas != 1 else ''} more" if areas else "larger areas"
    title = f"the {context.index.label} holds {what} than the kernel counted ({pages(total)})"
    return context.finding(rules.SURPLUS, mm, title, evidence)


def _counter(context: Context, mm: int, lacks: dict[str, int], evidence: list[Evidence]) -> Finding:
    """Neither plainly too few areas nor too many. Executable pages that no area has now weigh more."""
    names = [name for name, difference in lacks.items() if difference]
    severity = None
    title = f"{' and '.join(names)} disagree{'s' if len(names) == 1 else ''} with the areas"
    if lacks["map_count"] == lacks["total_vm"] == 0 and lacks["exec_vm"]:
        severity = Severity.HIGH
        count = lacks["exec_vm"]
        title = (
            f"{pages(abs(count))} were counted as executable and now lie in areas that are not"
            if count > 0
            else f"{pages(abs(count))} lie in executable areas and were not counted as executable"
        )
        evidence += _same_size(context, mm, abs(count), count > 0)
    return context.finding(rules.COUNTER, mm, title, evidence, severity=severity)


def _same_size(context: Context, mm: int, size: int, gone: bool) -> list[Evidence]:
    """Areas of just the size in question that now have the flags in question."""
    if size >= 1 << 52:  # pages; no area is as large
        return []
    rows = context.views.regions()[context.index]
    vmas = context.views.vmas[rows["vma_row"][rows["mm"] == np.uint64(mm)]]
    executable = (vmas["flags"] & np.uint64(flags.VM_EXEC)) != 0
    fits = vmas[(vmas["end"] - vmas["start"] == np.uint64(size << 12)) & (executable != gone)]
    return [
        Evidence(
            what=f"an area of that size: {int(one['start']):#x}-{int(one['end']):#x}, {allows(int(one['flags']))}",
            view=View.VMA.label,
            address=int(one["vma"]),
        )
        for one in fits[:4]
    ]


def _locked(context: Context, sums: Sums) -> Iterator[Finding]:
    """locked_vm is a lower bound: io_uring, vfio, bpf and RDMA add to it."""
    views = context.views
    stored = views.mms["locked_vm"].astype(np.int64)
    for row in np.flatnonzero((stored < sums.locked) & sums.known).tolist():
        mm = int(views.mms["mm"][row])
        evidence = Evidence(
            what=f"locked_vm is {int(stored[row])}, locked areas add up to {int(sums.locked[row])}",
            view=View.COUNTERS.label,
            address=mm + views.mm_offsets["locked_vm"],
            found=str(int(stored[row])),
            expected=f"at least {int(sums.locked[row])}",
        )
        title = "locked_vm is less than the locked areas add up to"
        yield context.finding(rules.COUNTER, mm, title, [evidence])
