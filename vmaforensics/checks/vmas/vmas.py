"""What every single area has to satisfy: index range, owner, bounds, order, backward link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.context import before
from vmaforensics.checks.finding import Evidence
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

_PAGE = np.uint64(4095)


def check_areas(context: Context) -> Iterator[Finding]:
    """VMA-RANGE, VMA-OWNER, VMA-BOUNDS and VMA-ORDER over every view, VMA-BACKLINK over the list."""
    for view, rows in context.views.regions().items():
        at = rows["vma_row"]
        known = (at >= 0) & context.views.vmas["ok"][at]
        rows, vmas = rows[known], context.views.vmas[at[known]]
        if view is View.MAPLE:
            yield from _ranges(context, rows, vmas)
        yield from _owners(context, view, rows, vmas)
        if view is context.index:
            yield from _bounds(context, rows, vmas)
        yield from _order(context, view, rows, vmas)
        if view is View.LIST:
            yield from _backlinks(context, rows, vmas)
            yield from _highest(context, rows, vmas)


def _ranges(context: Context, rows: NDArray[np.void], vmas: NDArray[np.void]) -> Iterator[Finding]:
    differs = (rows["start"] != vmas["start"]) | (rows["end"] != vmas["end"])
    wrong = np.flatnonzero(differs & (rows["mm"] == vmas["mm"]))  # a foreign area is told as such
    rows, vmas = rows[wrong], vmas[wrong]

    def span(row: int) -> tuple[str, str]:
        index = f"{int(rows['start'][row]):#x}-{int(rows['end'][row]):#x}"
        return index, f"{int(vmas['start'][row]):#x}-{int(vmas['end'][row]):#x}"

    def evidence(row: int) -> Evidence:
        index, own = span(row)
        return Evidence(
            what=f"the maple tree holds {int(vmas['vma'][row]):#x} at {index}, its vm_start and vm_end say {own}",
            view=View.MAPLE.label,
            address=int(rows["slot"][row]),
            found=own,
            expected=index,
        )

    def title(row: int) -> str:
        index, own = span(row)
        return f"area shown as {own} is indexed as {index}"

    def bounds(row: int) -> tuple[int, int]:
        return (
            int(min(rows["start"][row], vmas["start"][row])),
            int(max(rows["end"][row], vmas["end"][row])),
        )

    yield from context.per_mm(rules.RANGE, rows["mm"], evidence, title, bounds)


def _owners(context: Context, view: View, rows: NDArray[np.void], vmas: NDArray[np.void]) -> Iterator[Finding]:
    wrong = np.flatnonzero(rows["mm"] != vmas["mm"])
    rows, vmas = rows[wrong], vmas[wrong]

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"the {view.label} holds {int(vmas['vma'][row]):#x}, whose vm_mm is {int(vmas['mm'][row]):#x}",
            view=view.label,
            address=int(rows["slot"][row]),
            found=f"{int(vmas['mm'][row]):#x}",
            expected=f"{int(rows['mm'][row]):#x}",
        )

    def title(row: int) -> str:
        return f"{context.area(int(vmas['vma'][row]))} in the {view.label} belongs to another address space"

    yield from context.per_mm(
        rules.OWNER, rows["mm"], evidence, title, lambda row: (int(rows["start"][row]), int(rows["end"][row]))
    )


def _bounds(context: Context, rows: NDArray[np.void], vmas: NDArray[np.void]) -> Iterator[Finding]:
    mm = context.views.mms[context.views.mm_rows(rows["mm"])]
    empty = vmas["start"] >= vmas["end"]
    crooked = ((vmas["start"] | vmas["end"]) & _PAGE) != 0
    beyond = (mm["task_size"] != 0) & (vmas["end"] > mm["task_size"])
    wrong = np.flatnonzero(empty | crooked | beyond)
    vmas, rows = vmas[wrong], rows[wrong]
    reasons = [
        "it is empty" if no else "it is not aligned to pages" if odd else "it ends above user space"
        for no, odd in zip(empty[wrong].tolist(), crooked[wrong].tolist(), strict=True)
    ]

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"{int(vmas['start'][row]):#x}-{int(vmas['end'][row]):#x}: {reasons[row]}",
            view=View.VMA.label,
            address=int(vmas["vma"][row]),
        )

    def title(row: int) -> str:
        return f"{context.area(int(vmas['vma'][row]))} cannot be: {reasons[row]}"

    yield from context.per_mm(
        rules.BOUNDS, rows["mm"], evidence, title, lambda row: (int(vmas["start"][row]), int(vmas["end"][row]))
    )


def _order(context: Context, view: View, rows: NDArray[np.void], vmas: NDArray[np.void]) -> Iterator[Finding]:
    """Each area against the one before it in the view's own order."""
    same = rows["mm"][1:] == rows["mm"][:-1]
    wrong = np.flatnonzero(same & (vmas["start"][1:] < vmas["end"][:-1])) + 1

    def span(row: int) -> str:
        return f"{int(vmas['start'][row]):#x}-{int(vmas['end'][row]):#x}"

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=f"in the {view.label}, {span(at)} follows {span(at - 1)}",
            view=view.label,
            address=int(rows["slot"][at]),
        )

    def title(row: int) -> str:
        at = int(wrong[row])
        return f"areas {span(at - 1)} and {span(at)} overlap or are out of order in the {view.label}"

    def bounds(row: int) -> tuple[int, int]:
        at = int(wrong[row])
        return int(vmas["start"][at - 1 : at + 1].min()), int(vmas["end"][at - 1 : at + 1].max())

    yield from context.per_mm(rules.ORDER, rows["mm"][wrong], evidence, title, bounds)


def _backlinks(context: Context, rows: NDArray[np.void], vmas: NDArray[np.void]) -> Iterator[Finding]:
    expected = before(rows["vma"], rows["mm"])
    wrong = np.flatnonzero((vmas["prev"] != expected) & context.decoded(View.LIST, rows["mm"]))

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=f"vm_prev of {int(vmas['vma'][at]):#x} does not lead to the element before it",
            view=View.LIST.label,
            address=int(vmas["vma"][at]),
            found=f"{int(vmas['prev'][at]):#x}",
            expected=f"{int(expected[at]):#x}",
        )

    def title(row: int) -> str:
        return f"vm_prev of the {context.area(int(vmas['vma'][wrong[row]]))} skips or leaves the list"

    def bounds(row: int) -> tuple[int, int]:
        at = int(wrong[row])
        return int(vmas["start"][at]), int(vmas["end"][at])

    yield from context.per_mm(rules.BACKLINK, rows["mm"][wrong], evidence, title, bounds)


def _highest(context: Context, rows: NDArray[np.void], vmas: NDArray[np.void]) -> Iterator[Finding]:
    """``highest_vm_end`` is the end of the last area (vm_end_gap; the guard gap is only of VM_GROWSUP)."""
    mms = context.views.mms
    last = np.flatnonzero(np.concatenate([rows["mm"][1:] != rows["mm"][:-1], [True]])[: len(rows)])
    stored = mms["highest_vm_end"][context.views.mm_rows(rows["mm"][last])]
    wrong = last[(stored != vmas["end"][last]) & context.decoded(View.LIST, rows["mm"][last])]
    stored = mms["highest_vm_end"][context.views.mm_rows(rows["mm"][wrong])]

    def evidence(row: int) -> Evidence:
        return Evidence(
            what="highest_vm_end is not the end of the last area",
            view=View.COUNTERS.label,
            address=int(rows["mm"][wrong[row]]),
            found=f"{int(stored[row]):#x}",
            expected=f"{int(vmas['end'][wrong[row]]):#x}",
        )

    def title(row: int) -> str:
        return f"highest_vm_end is {int(stored[row]):#x}, the last area ends at {int(vmas['end'][wrong[row]]):#x}"

    yield from context.per_mm(rules.BACKLINK, rows["mm"][wrong], evidence, title)
