"""VMA-OPS: memory is mapped by other functions than the kernel's.

*Compared:* the table of functions that each VMA (`vm_ops`), each mapped file (`f_op`) and the pages of each
(`a_ops`) lead to, and the functions in it, with the constants of the kernel and of its modules; of regular files also
with each other, by the module that each is of.

*Guaranteed by:* `mmap` of a file sets `vm_ops` to a table of the file system or driver, `do_dentry_open` (fs/open.c)
takes `f_op` from the inode, `i_mapping->a_ops` is set when an inode is made; all these tables are `const`. What the
constants of a module lead to is its own or of a module that it uses (`ref_module`, kernel/module/main.c).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.files.shown import shown
from vmaforensics.checks.road.places import pointer_evidence
from vmaforensics.checks.rule import BUG, Confidence, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.road.pointers import Leads, Source
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Evidence, Finding
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.views.road.road import RoadView

RULE = Rule(
    id="VMA-OPS",
    title="memory is mapped by other functions than the kernel's",
    severity=Severity.HIGH,
    confidence=Confidence.MEDIUM,
    why="Who is called when a page is missing decides what a process finds there, and can say another name in "
    "/proc/PID/maps. The records of the map stay as they were.",
    benign=("a driver that makes a table of its own for each mapping", BUG),
    attack=("T1014", "T1055"),
    compares="vm_ops of VMAs, f_op and a_ops of their files with tables and functions of the kernel and its modules",
    views=(View.CODE, View.VMA),
    transient="none: tables are constant, and the pointers to them are set once",
    by_hand=("crash: struct vm_operations_struct ADDRESS", "crash: rd -s ADDRESS"),
    steps=("word",),
    rank=713,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process whose VMAs lead elsewhere, and one for what is not a process's."""
    views, road = context.views, context.views.road
    if road is None:
        return
    pointers = road.pointers
    rows = np.flatnonzero(_wrong(road))
    if not len(rows):
        return
    home, mapped = pointers.home[rows], pointers.source[rows] == Source.MAPPED
    vma = np.where(mapped, views.vma_rows(home), -1)
    mm = values_at(views.vmas.mm, vma)
    if views.files is not None:
        for keys in (views.files.rows.file, views.files.rows.mapping):
            who = shown(context, keys, home)
            others = mapped & (vma < 0)
            vma, mm = np.where(others, who.vma_row, vma), np.where(others & (mm == 0), who.mm, mm)
    # A table of the kernel is a constant. What leads there may have been given back and hold something else since: its
    # process may have done that or, where it names none, whoever had it.
    for constant in (True, False):
        chosen = np.flatnonzero(mapped != constant)
        wrong = _Wrong(context, road, rows[chosen], vma[chosen])
        for finding in context.per_mm(RULE, mm[chosen], wrong.evidence, wrong.title, wrong.bounds):
            yield replace(finding, at_once=constant, settled=not constant)


class _Wrong:
    """What is told of pointers: ``rows`` of ``RoadView.pointers``, each with the row of its VMA or -1."""

    def __init__(self, context: Context, road: RoadView, rows: I64, vma: I64) -> None:
        self._vmas, self._road, self._rows, self._vma = context.views.vmas, road, rows, vma

    def evidence(self, at: int) -> Evidence:
        return pointer_evidence(self._road, int(self._rows[at]))

    def title(self, at: int) -> str:
        return self.evidence(at).what

    def bounds(self, at: int) -> tuple[int, int]:
        place, row = int(self._road.pointers.at[self._rows[at]]), int(self._vma[at])
        return (place, place + 8) if row < 0 else (int(self._vmas.start[row]), int(self._vmas.end[row]))


def _wrong(road: RoadView) -> Bools:
    """Which pointers lead to what they never lead to."""
    pointers = road.pointers
    unknown = (Leads.INSIDE, Leads.UNNAMED) if not road.named else ()
    # MODULE-HIDDEN tells of modules that are not on the list.
    table = (Leads.DATA, Leads.NULL, Leads.MODULE, Leads.UNLISTED, *unknown)
    wrong: Bools = (pointers.source == Source.MAPPED) & ~np.isin(pointers.leads, table)
    by_modules = pointers.modular & np.isin(pointers.leads, (Leads.MODULE, Leads.UNLISTED))
    # A table may lead to another one (vm_operations_struct.uffd_ops), whose place in the data cannot run.
    own = np.isin(pointers.leads, (Leads.FUNCTION, Leads.DATA, *unknown))
    wrong |= (pointers.source == Source.MAPPED_TABLE) & ~own & ~by_modules
    wrong |= pointers.alien & np.isin(pointers.source, (Source.MAPPED, Source.MAPPED_TABLE))
    return wrong
