"""Code that is not what the file it is mapped from holds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.finding import Confidence, Evidence, Severity
from vmaforensics.views.pages.text_match import Match
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.pages.text_pages import TextView

_PAGE = 4096


def check_text(context: Context) -> Iterator[Finding]:
    """TEXT-MODIFIED: one finding for each process and cause.

    Bytes at a registered uprobe are the kernel's own and no finding. What is left is ranked by who can have written
    it: a debugger that is attached; the process itself, where it had the area writable (VM_ACCOUNT is set by
    mprotect_fixup, mm/mprotect.c, and stays); else nobody by an ordinary write.
    """
    text = context.views.text
    if text is None:
        return
    rows = text.pages
    rest = rows["count"] - rows["probed"]
    wrong = (rows["match"] == Match.DIFFERS) & (rest > 0)
    only_breakpoints = rest == rows["breakpoints"]
    vma_flags = context.views.vmas["flags"][rows["vma_row"]]
    writable = (vma_flags & np.uint64(flags.VM_WRITE | flags.VM_ACCOUNT)) != 0
    debugger = only_breakpoints & rows["traced"]
    # Probes that could not be read may be what put a breakpoint there.
    unsure = only_breakpoints & ~debugger & (not text.probes_known)
    for which, severity, confidence, note in (
        (debugger, Severity.LOW, Confidence.LOW, "breakpoints, and a debugger is attached"),
        (unsure, Severity.LOW, Confidence.LOW, "breakpoints; the list of registered uprobes is not in the image"),
        (writable, Severity.MEDIUM, Confidence.MEDIUM, "the process had the area writable"),
        (np.ones(len(rows), np.bool_), None, None, "the area never was writable"),
    ):
        chosen = np.flatnonzero(wrong & which)
        wrong &= ~which
        for one in _tell(context, text, chosen, note):
            yield replace(one, severity=severity or one.severity, confidence=confidence or one.confidence)


def _tell(context: Context, text: TextView, chosen: NDArray[np.intp], note: str) -> Iterator[Finding]:
    rows, views = text.pages, context.views
    assert views.page_tables is not None
    ptes, pages = views.page_tables.ptes, views.page_tables.pages
    mm = views.mms["mm"][ptes["mm_row"][rows["pte_row"][chosen]]]

    def evidence(row: int) -> Evidence:
        one = rows[chosen[row]]
        entry = ptes[one["pte_row"]]
        known = int(entry["page_row"]) >= 0
        kind = "anonymous page" if known and pages["anon"][entry["page_row"]] else "page"
        now, was = (bytes(one[name][: _PAGE - int(one["first"])]).hex(" ") for name in ("now", "was"))
        return Evidence(
            what=f"{int(one['va']):#x} is mapped from the {kind} frame {int(one['pfn']):#x}; the page cache has frame "
            f"{int(one['cached']):#x} for page {int(one['index']):#x} of {_name(context, one)}: {int(one['count'])} "
            f"bytes differ, at {int(one['first']):#x} {now} instead of {was} ({note})",
            view=View.PAGE_TABLES.label,
            address=int(entry["where"]),
            found=f"{int(entry['entry']):#x}",
            expected=f"frame {int(one['cached']):#x}",
        )

    def title(row: int) -> str:
        one = rows[chosen[row]]
        count = int(one["count"])
        amount = "one byte" if count == 1 else f"{count} bytes"
        where = int(one["va"]) + int(one["first"])
        return f"code at {where:#x} of {_name(context, one)} was changed ({amount}; {note})"

    def bounds(row: int) -> tuple[int, int]:
        va = int(rows["va"][chosen[row]])
        return va, va + _PAGE

    yield from context.per_mm(rules.TEXT_MODIFIED, mm, evidence, title, bounds)


def _name(context: Context, row: np.void) -> str:
    return context.views.names[int(row["vma_row"])].decode("utf-8", "backslashreplace") or "its file"
