"""TEXT-MODIFIED: code in memory is not the code of its file.

*Severity:* high; medium, with medium confidence, where the process has or had the VMA writable; low, with low
confidence, where nothing but breakpoints differ and a debugger is attached, or the list of registered uprobes is not
in the image.

*Compared:* for each page present in an executable VMA of a regular file, the frame of its entry with the frame that
the file's page cache has at that index, whatever `struct page` says; where these are two frames, their contents. The
evidence gives the first byte that differs and how many do. A byte at the place of a registered uprobe (`uprobes_tree`:
inode and offset) that is an `int3`, or within the five bytes of a call that x86 may put there (7.x), is no difference.

*Guaranteed by:* `filemap_map_pages` (mm/filemap.c) maps pages of the page cache; only a write makes a copy
(`wp_page_copy`, `do_cow_fault`, mm/memory.c). `mprotect_fixup` (mm/mprotect.c) sets VM_ACCOUNT when a private VMA
becomes writable, and it stays: a VMA without it was never writable, so that its pages can have been written only from
outside (`ptrace`, `/proc/PID/mem`) or by the kernel.

*Contents:* needed of both pages. They are user memory, which excerpts and `makedumpfile -d 31` leave out: such pages
are counted under *Not assessed*, as are those that the page cache no longer has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Confidence, Part, Rule, Severity
from vmaforensics.views.pages.text_match import Match
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.views.pages.text_pages import TextView

RULE = Rule(
    id="TEXT-MODIFIED",
    title="code in memory is not the code of its file",
    severity=Severity.HIGH,
    why="Code is mapped from the page cache. A page in its place that holds other bytes was written to in memory "
    "alone: a hook, a patch or a breakpoint that no look at the file on the disk will show.",
    benign=(
        "a debugger that set breakpoints, and may have left",
        "text relocations, and programs that patch their own code: these had the VMA writable",
        "the file was written to after the page had been copied",
        SMEAR,
        BUG,
    ),
    attack=("T1055",),
    compares="the frame behind each page of an executable VMA of a file with the frame in the file's page cache, and "
    "where they are two, their contents; bytes at a registered uprobe aside",
    views=(View.PAGE_TABLES, View.PAGES, View.FILES),
    transient="none: a uprobe is in its tree before the breakpoint is written, and after it has been taken out",
    by_hand=(hand.VTOP, "crash: struct address_space.i_pages MAPPING", "crash: rd -p PHYSICAL 512  # of both frames"),
    steps=("vma", "file", "memory", "entry", "frame"),
    part=Part.CAUSE,
    rank=160,
    changed_by=(),
)


class _Writer(NamedTuple):
    """Who can have written to some of the pages, and how much that is a matter of concern."""

    pages: Bools  # rows of the view
    severity: Severity | None  # None for the rule's own
    confidence: Confidence | None
    note: str


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process and way in which its code can have been written.

    Bytes at a registered uprobe are the kernel's own and no finding.
    """
    text = context.views.text
    if text is None:
        return
    rows = text.pages
    wrong = (rows.match == Match.DIFFERS) & (rows.count > rows.probed)
    for writer in _writers(context, text):
        chosen = np.flatnonzero(wrong & writer.pages)
        wrong &= ~writer.pages
        for finding in _findings(context, text, chosen, writer.note):
            yield replace(
                finding,
                severity=writer.severity or finding.severity,
                confidence=writer.confidence or finding.confidence,
            )


def _writers(context: Context, text: TextView) -> tuple[_Writer, ...]:
    """The most harmless first: a page belongs to the first that has it.

    A debugger that is attached; the process itself, where it had the VMA writable (VM_ACCOUNT is set by
    mprotect_fixup, mm/mprotect.c, and stays); else nobody by an ordinary write.
    """
    rows = text.pages
    vm_flags = context.views.vmas.flags[rows.vma_row]
    writable = (vm_flags & np.uint64(flags.VM_WRITE | flags.VM_ACCOUNT)) != 0
    only_breakpoints = rows.count - rows.probed == rows.breakpoints
    debugger = only_breakpoints & rows.traced
    # Probes that could not be read may be what put a breakpoint there.
    unsure = only_breakpoints & (not text.probes_known)
    low, medium = (Severity.LOW, Confidence.LOW), (Severity.MEDIUM, Confidence.MEDIUM)
    return (
        _Writer(debugger, *low, "breakpoints, and a debugger is attached"),
        _Writer(unsure, *low, "breakpoints; the list of registered uprobes is not in the image"),
        _Writer(writable, *medium, "the process had the VMA writable"),
        _Writer(np.ones(len(rows), np.bool_), None, None, "the VMA never was writable"),
    )


def _findings(context: Context, text: TextView, chosen: I64, note: str) -> Iterator[Finding]:
    """One finding for each process that has some of the ``chosen`` rows."""
    rows, views = text.pages, context.views
    page_size = views.arch.page_size
    assert views.page_tables is not None
    pages, ptes = views.page_tables.pages, views.page_tables.entries.take(rows.pte_row[chosen])

    def name(row: int) -> str:
        return decoded(views.names[int(rows.vma_row[row])]) or "its file"

    def evidence(at: int) -> Evidence:
        row = int(chosen[at])
        page, first = int(ptes.page_row[at]), int(rows.first[row])
        kind = "anonymous page" if page >= 0 and pages.anon[page] else "page"
        now, was = (octets[row, : page_size - first].tobytes().hex(" ") for octets in (rows.now, rows.was))
        return Evidence(
            what=f"{int(rows.va[row]):#x} is mapped from the {kind} frame {int(rows.pfn[row]):#x}; the page cache has "
            f"frame {int(rows.cached[row]):#x} for page {int(rows.index[row]):#x} of {name(row)}: "
            f"{int(rows.count[row])} bytes differ, at {first:#x} {now} instead of {was} ({note})",
            view=View.PAGE_TABLES.label,
            address=int(ptes.where[at]),
            found=f"{int(ptes.entry[at]):#x}",
            expected=f"frame {int(rows.cached[row]):#x}",
        )

    def title(at: int) -> str:
        row = int(chosen[at])
        count, where = int(rows.count[row]), int(rows.va[row]) + int(rows.first[row])
        amount = "one byte" if count == 1 else f"{count} bytes"
        return f"code at {where:#x} of {name(row)} was changed ({amount}; {note})"

    def bounds(at: int) -> tuple[int, int]:
        va = int(rows.va[chosen[at]])
        return va, va + page_size

    yield from context.per_mm(RULE, views.mms.mm[ptes.mm_row], evidence, title, bounds)
