"""VDSO-AREA: records of where the vDSO is contradict each other.

*Severity:* high where `mm->context.vdso` names a VMA that is not of the kernel's code, or the image is none of the
kernel's; medium where the kernel's code is elsewhere; information for the auxiliary vector alone.

*Compared:* `mm->context.vdso`, the VMA that begins there, `mm->context.vdso_image`, and AT_SYSINFO_EHDR of
`mm->saved_auxv`.

*Guaranteed by:* `map_vdso` (arch/x86/entry/vdso/vma.c) sets the first three together; `vdso_mremap` follows a VMA that
is moved; AT_SYSINFO_EHDR is set by `exec` and changed by `prctl(PR_SET_MM)` alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Confidence, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView

RULE = Rule(
    id="VDSO-AREA",
    title="records of where the vDSO is contradict each other",
    severity=Severity.HIGH,
    why="Tools take what lies at context.vdso for the kernel's own code, and pass over it.",
    benign=("CRIU and sandboxes move the vDSO; the auxiliary vector does not follow", SMEAR, BUG),
    attack=("T1055.014", "T1036"),
    compares="mm->context.vdso, the VMA there, mm->context.vdso_image, and AT_SYSINFO_EHDR",
    views=(View.ANCHORS, View.VMA),
    transient="exec and mremap, under the write lock",
    by_hand=("crash: struct mm_struct.context MM", "crash: vm PID"),
    steps=("mm", "index", "vma"),
    rank=575,
    changed_by=(Operation.EXEC, Operation.MOVE, Operation.MAP),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process and kind of contradiction."""
    views, view, tables = context.views, context.views.vdso, context.views.page_tables
    if view is None or tables is None:
        return
    mms = views.mms
    judged = mms.ok & (mms.vdso != 0) & (mms.vdso < np.uint64(views.arch.user_top))
    vma = _vma_at(context, tables)
    begins = (vma >= 0) & (values_at(views.vmas.start, vma) == mms.vdso)
    other = judged & begins & ~values_at(view.code, vma) & values_at(views.vmas.ok, vma)
    yield from _tell(
        context, np.flatnonzero(other), lambda at: f"context.vdso is {int(mms.vdso[at]):#x}: {_words(context, vma, at)}"
    )
    unknown = judged & (view.image_row < 0)
    yield from _tell(
        context,
        np.flatnonzero(unknown),
        lambda at: f"context.vdso_image is {int(view.image[at]):#x}, which is none of the kernel's images",
        at_word=view.image_at,
    )
    elsewhere = judged & _mapped_elsewhere(context, view.code)
    for finding in _tell(
        context,
        np.flatnonzero(elsewhere & ~other),
        lambda at: f"context.vdso is {int(mms.vdso[at]):#x}, and the kernel's code is mapped elsewhere",
    ):
        yield replace(finding, severity=Severity.MEDIUM, confidence=Confidence.MEDIUM)
    for finding in _tell(context, np.flatnonzero(judged & _told_otherwise(context)), lambda at: _auxv(context, at)):
        yield replace(finding, severity=Severity.INFO, confidence=Confidence.LOW)


def _mapped_elsewhere(context: Context, code: Bools) -> Bools:
    """Which processes map the kernel's code, rows ``code`` of the VMAs, and not at context.vdso."""
    views = context.views
    rows = np.flatnonzero(code)
    mm_row = views.mm_rows(views.vmas.mm[rows])
    away = (mm_row >= 0) & (values_at(views.mms.vdso, mm_row) != views.vmas.start[rows])
    elsewhere = np.zeros(len(views.mms), np.bool_)
    if away.any():
        away[away] = np.isin(views.vmas.vma[rows[away]], views.index.vma)
        elsewhere[mm_row[away]] = True
        elsewhere &= context.decoded(context.index, views.mms.mm)
    return elsewhere


def _vma_at(context: Context, tables: PageTablesView) -> I64:
    """Row of the VMA that holds the vDSO of each process, -1 for none."""
    mms = context.views.mms
    at = np.where(mms.vdso < np.uint64(context.views.arch.user_top), mms.vdso, np.uint64(0))
    row = tables.ranges.rows_at(context.views.arch, np.arange(len(mms)), at)
    return values_at(tables.ranges.vma_row, row, -1).astype(np.int64)


def _words(context: Context, vma: I64, at: int) -> str:
    return f"{context.vma_in_words(int(context.views.vmas.vma[vma[at]]))} is not the kernel's code"


def _told_otherwise(context: Context) -> Bools:
    """Does AT_SYSINFO_EHDR name another place?"""
    anchors, mms = context.views.anchors, context.views.mms
    if anchors is None:
        return np.zeros(len(mms), np.bool_)
    told: U64 = anchors.mms.sysinfo_ehdr
    otherwise: Bools = anchors.mms.ok & (told != 0) & (told != mms.vdso)
    return otherwise


def _auxv(context: Context, at: int) -> str:
    anchors = context.views.anchors
    assert anchors is not None
    return (
        f"AT_SYSINFO_EHDR is {int(anchors.mms.sysinfo_ehdr[at]):#x}, context.vdso {int(context.views.mms.vdso[at]):#x}"
    )


def _tell(context: Context, rows: I64, words: Callable[[int], str], at_word: int | None = None) -> Iterator[Finding]:
    """A finding for each of ``rows`` of the mms; ``at_word`` is the offset of the word in question."""
    mms, offset = context.views.mms, context.views.mm_offsets.vdso if at_word is None else at_word
    page = context.views.arch.page_size
    for row in rows.tolist():
        evidence = Evidence(
            what=words(row),
            view=View.ANCHORS.label,
            address=int(mms.mm[row]) + (offset or 0),
            found=f"{int(mms.vdso[row]):#x}",
        )
        bounds = (int(mms.vdso[row]), int(mms.vdso[row]) + page)
        yield context.finding(RULE, int(mms.mm[row]), words(row), [evidence], bounds=bounds)
