"""VDSO-PAGE: process has other code in the place of the kernel's vDSO.

*Severity:* high; for a page that is a private copy, as a write leaves it, medium with medium confidence, and low where
nothing differs, or nothing but breakpoints while a debugger is attached.

*Compared:* the frame of each present page of a process's vDSO (`vm_special_mapping` `vdso_mapping`) with the frame of
that page of the image that `mm->context.vdso_image` names; the frames of its data (`vvar`) with those of the kernel's
data pages, of the clocks of hypervisors, and of time namespaces.

*Guaranteed by:* `vdso_fault` and `vvar_fault` (arch/x86/entry/vdso/vma.c, lib/vdso/datastore.c) map these and no other
pages. A write by a debugger or through `/proc/PID/mem` makes a private copy of a page of code (`wp_page_copy`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Confidence, Part, Rule, Severity
from vmaforensics.checks.unchanged import unchanged
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.views.pages.vdso import VdsoPages, VdsoView

RULE = Rule(
    id="VDSO-PAGE",
    title="process has other code in the place of the kernel's vDSO",
    severity=Severity.HIGH,
    why="Programs call the vDSO to learn the time, and nobody looks for code there: what stands in its place runs in "
    "the process, often many times a second.",
    benign=("a debugger that wrote there, and may have left", "tools that record or restore processes", SMEAR, BUG),
    attack=("T1055.014", "T1014"),
    compares="the frame of each page of vDSO and vvar with the kernel's own pages",
    views=(View.PAGE_TABLES, View.VMA),
    transient="none",
    by_hand=(hand.VTOP, "crash: struct vdso_image.data,size vdso_image_64", "crash: kmem PAGE"),
    steps=("vma", "memory", "entry", "frame"),
    part=Part.CAUSE,
    rank=157,
    changed_by=(),
)

_STAYS = "exec mapped the vDSO, and this VMA was the same when the entry was read: no other page comes there"


def check(context: Context) -> Iterator[Finding]:
    """For each way in which it can have come about, one finding for each process."""
    view = context.views.vdso
    if view is None or not len(view.pages):
        return
    rows = view.pages
    harmless = rows.copy & ((rows.differing == 0) | (rows.breakpoints & rows.traced))
    foreign = np.flatnonzero(~rows.copy)
    stays = _stays(context, rows.take(foreign))
    yield from (replace(finding, proven=_STAYS) for finding in _findings(context, view, foreign[stays]))
    yield from _findings(context, view, foreign[~stays])
    for finding in _findings(context, view, np.flatnonzero(rows.copy & ~harmless)):
        yield replace(finding, severity=Severity.MEDIUM, confidence=Confidence.MEDIUM)
    for finding in _findings(context, view, np.flatnonzero(harmless)):
        yield replace(finding, severity=Severity.LOW, confidence=Confidence.LOW)


def _stays(context: Context, rows: VdsoPages) -> Bools:
    """Was the VMA of each page the same when its entry was read? Then no other page could come there."""
    known, ptes = context.shared(unchanged), context.views.page_tables
    if known is None or ptes is None or not len(rows):
        return np.zeros(len(rows), np.bool_)
    return known.through(context.views.vmas.take(rows.vma_row), ptes.entries.take(rows.pte_row).where)


def _findings(context: Context, view: VdsoView, chosen: I64) -> Iterator[Finding]:
    rows, views = view.pages.take(chosen), context.views
    assert views.page_tables is not None
    ptes = views.page_tables.entries.take(rows.pte_row)

    def what(at: int) -> str:
        name = decoded(views.names[int(rows.vma_row[at])]) or "a special mapping"
        if not rows.copy[at]:
            return f"{int(ptes.va[at]):#x} of {name} is frame {int(rows.pfn[at]):#x}, which is not the kernel's"
        count = int(rows.differing[at])
        differs = "which could not be compared" if count < 0 else f"of which {count} bytes differ"
        note = ", with a debugger attached" if rows.traced[at] else ""
        return f"{int(ptes.va[at]):#x} of {name} is a private copy, {differs} from the kernel's page{note}"

    def evidence(at: int) -> Evidence:
        expected = int(rows.expected[at])
        return Evidence(
            what=what(at),
            view=View.PAGE_TABLES.label,
            address=int(ptes.where[at]),
            found=f"{int(ptes.entry[at]):#x}",
            expected=f"frame {expected:#x}" if expected else "",
        )

    def bounds(at: int) -> tuple[int, int]:
        return int(ptes.va[at]), int(ptes.va[at]) + int(ptes.sizes(views.arch)[at])

    yield from context.per_mm(RULE, views.mms.mm[rows.mm_row], evidence, what, bounds)
