"""The allocator's account of areas against the indexes: what nobody leads to, and what was never allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.context import allows
from vmaforensics.checks.finding import Evidence
from vmaforensics.views.problems import Problem
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding


def check_slab(context: Context) -> Iterator[Finding]:
    """VMA-SLAB-ORPHAN, VMA-SLAB-STATE and MT-ROOT."""
    yield from _orphans(context)
    yield from _unallocated(context)
    yield from _roots(context)


def _orphans(context: Context) -> Iterator[Finding]:
    """Areas that are alive in the slab, belong to a process, and are in none of its indexes.

    Attached, by the kernel's own mark, from 6.4 on; before, munmap frees an area while it holds the lock.
    """
    found, views = context.views.strays, context.views
    if found is None or not len(views.mms):
        return
    strays = found.vmas
    # Where the lists of free objects are incomplete, vm_refcnt (6.15) still tells a live one.
    alive = (found.state == State.ALLOCATED) | ((found.state == State.UNKNOWN) & (strays["refcnt"] >= 1))
    owner = views.mm_rows(strays["mm"])
    mm = views.mms[owner]
    fits = (owner >= 0) & mm["ok"] & (mm["users"] > 0)
    fits &= (mm["task_size"] == 0) | (strays["end"] <= mm["task_size"])
    for view in views.regions():
        fits &= context.whole(view, strays["mm"])
    problems = views.problems
    forked = problems["mm"][problems["problem"] == Problem.RESERVED]  # areas behind a failed fork are in no tree
    rows = np.flatnonzero(alive & found.attached & fits & ~np.isin(strays["mm"], forked))

    def area(row: int) -> str:
        one = strays[rows[row]]
        name = found.names[int(rows[row])].decode("utf-8", "backslashreplace")
        text = f"{allows(int(one['flags']))} area {int(one['start']):#x}-{int(one['end']):#x}"
        return f"{text} ({name})" if name else text

    def evidence(row: int) -> Evidence:
        one = strays[rows[row]]
        mark = f", vm_refcnt {int(one['refcnt']):#x}" if one["refcnt"] >= 0 else ""
        return Evidence(
            what=f"the {area(row)} is an allocated vm_area_struct{mark} of this mm, and in no index of it",
            view=View.SLAB.label,
            address=int(one["vma"]),
            found=State(int(found.state[rows[row]])).text,
            expected=f"in the {context.index.label}",
        )

    def title(row: int) -> str:
        return f"{area(row)} is alive and in no index of the memory map"

    def bounds(row: int) -> tuple[int, int]:
        one = strays[rows[row]]
        return int(one["start"]), int(one["end"])

    yield from context.per_mm(rules.SLAB_ORPHAN, strays["mm"][rows], evidence, title, bounds)


def _unallocated(context: Context) -> Iterator[Finding]:
    """Areas in an index whose vm_area_struct is free, or lies outside the cache of such structures."""
    slab, views = context.views.slab, context.views
    if slab is None or not len(views.mms):
        return
    regions = views.regions()[context.index]
    state = slab.states(regions["vma"], ObjectKind.VMA)
    outside = np.isin(regions["vma"], views.strays.foreign if views.strays is not None else [])
    owner = views.mm_rows(regions["mm"])
    alive = (owner >= 0) & (views.mms["users"][owner] > 0)
    rows = np.flatnonzero(alive & ((state == State.FREE) | outside))

    def said(row: int) -> str:
        return "lies outside the cache of such structures" if outside[rows[row]] else "is free in its slab"

    def evidence(row: int) -> Evidence:
        one = regions[rows[row]]
        return Evidence(
            what=f"the {context.index.label} leads to a vm_area_struct that {said(row)}",
            view=View.SLAB.label,
            address=int(one["slot"]),
            found=f"{int(one['vma']):#x}",
        )

    def title(row: int) -> str:
        return f"the vm_area_struct of the {context.area(int(regions['vma'][rows[row]]))} {said(row)}"

    def bounds(row: int) -> tuple[int, int]:
        one = regions[rows[row]]
        return int(one["start"]), int(one["end"])

    yield from context.per_mm(rules.SLAB_STATE, regions["mm"][rows], evidence, title, bounds)


def _roots(context: Context) -> Iterator[Finding]:
    """Live root nodes that name an address space whose ma_root leads elsewhere: it has, or had, another tree."""
    sources, views = context.views.sources, context.views
    if sources is None or not len(views.mms):
        return
    at = views.mm_rows(sources.roots["mm"])
    rows: NDArray[np.void] = sources.roots[~sources.roots["current"] & (at >= 0) & (views.mms["users"][at] > 0)]

    def evidence(row: int) -> Evidence:
        mm = views.mms[views.mm_rows(rows["mm"][row : row + 1])[0]]
        return Evidence(
            what="a live maple node says it is the root of this tree; ma_root leads elsewhere",
            view=View.SLAB.label,
            address=int(rows["node"][row]),
            found=f"{int(mm['ma_root']):#x}",
            expected=f"{int(rows['node'][row]):#x}",
        )

    def title(row: int) -> str:
        return "another maple tree of areas belongs to this address space than the one it uses"

    yield from context.per_mm(rules.MT_ROOT, rows["mm"], evidence, title)
