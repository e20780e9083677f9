# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Rows for volatility3's grids: every region of every process, and which records know it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from volatility3.framework import renderers
from volatility3.framework.renderers import format_hints

from vmaforensics.columns.lookup import bounds_of, distinct
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.compare.cell_text import rights, run_content
from vmaforensics.compare.cells import CellState
from vmaforensics.compare.comparison import Comparison, compare_records
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.words.amounts import counted
from vmaforensics.words.permissions import vma_permissions
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from vmaforensics.views.views import Views

log = logging.getLogger(__name__)

Row = tuple[Any, ...]

# What the column of each view is called. The columns are the same for every kernel.
VIEW_COLUMNS = (
    (View.LIST, "In list"),
    (View.RBTREE, "In rbtree"),
    (View.MAPLE, "In maple"),
    (View.PAGE_TABLES, "In page tables"),
    (View.SLAB, "In slab"),
    (View.FILE_RMAP, "In i_mmap"),
    (View.ANON_RMAP, "In anon_vma"),
    (View.ANCHORS, "Anchored"),
)
# The views this needs beyond the indices, by the names of ``gather_views``.
WANTED = ("slab", "anchors", "page-tables", "rmap")

COLUMNS: list[tuple[str, type]] = [
    ("PID", int),
    ("Process", str),
    ("Start", format_hints.Hex),
    ("End", format_hints.Hex),
    ("Flags", str),
    ("PgOff", format_hints.Hex),
    ("Kind", str),
    *((name, bool) for _, name in VIEW_COLUMNS),
    ("VMA agrees", bool),
    ("VMA", format_hints.Hex),
    ("File Path", str),
]

UNREADABLE = renderers.UnreadableValue()
NOT_APPLICABLE = renderers.NotApplicableValue()
_VALUES: dict[int, Any] = {
    CellState.HELD: True,
    CellState.MISSING: False,
    CellState.UNREAD: UNREADABLE,
    CellState.NONE: NOT_APPLICABLE,
}
_UNKNOWN_NAME = b"?"  # vma_names: the file or mapping has a name, and it is not in the dump


def region_rows(views: Views, pids: Collection[int] = ()) -> Iterator[Row]:
    """One row of :data:`COLUMNS` per process and region, by pid (all, if none are named) and address.

    A region is a VMA that any record leads to, or a run of page-table entries that no VMA covers. Its
    bounds are those of its ``vm_area_struct``; those of the index where that could not be read. Processes that
    share an address space (vfork, CLONE_VM) each have its rows; one of whose regions none could be read has a
    row that says so. ``VMA agrees`` tells whether the ``vm_area_struct`` itself names this address space, and
    the maple tree its range.
    """
    compared = compare_records(views)
    shown = compared.cells()
    columns, run_columns = _vma_columns(views, compared), _run_columns(compared)
    absent = {name: NOT_APPLICABLE for view, name in VIEW_COLUMNS if view not in shown}
    nothing = tuple(absent.get(name, UNREADABLE) for name, _ in COLUMNS[2:])
    wanted = processes(views, pids)
    warn_of_missing(pids, wanted)
    for pid, comm, mm in wanted:
        rows, uncovered = _rows_of(compared.vmas.mm, columns, mm), _rows_of(compared.runs.mm, run_columns, mm)
        if uncovered:
            rows = sorted(rows + uncovered, key=_start)
        for row in rows or [nothing]:
            yield (pid, comm, *row)


def _start(row: Row) -> int:
    return row[0] if isinstance(row[0], int) else 0


def _rows_of(owner: NDArray[np.uint64], columns: list[list[Any]], mm: int) -> list[Row]:
    """The rows of ``mm``, of columns that go with the ascending ``owner``."""
    low, high = bounds_of(owner, mm)
    return list(zip(*(column[low:high] for column in columns), strict=True))


class Process(NamedTuple):
    """A process that has an address space."""

    pid: int
    comm: str  # of its leader, made printable
    mm: int  # address of its mm_struct


def processes(views: Views, pids: Collection[int] = ()) -> list[Process]:
    """Every process that has an address space, by pid.

    A process is named by its leader. Its threads share one mm; if one of them says otherwise, the process is
    listed once for each.
    """
    tasks = views.tasks.take(views.tasks.ok)
    names: dict[int, str] = {}
    for pid, comm in zip(tasks.tgid.tolist(), tasks.comm.tolist(), strict=True):
        names.setdefault(pid, printable(comm_of(comm)))  # leaders come first
    users = tasks.take(tasks.mm != 0)
    pairs = dict.fromkeys(zip(users.tgid.tolist(), users.mm.tolist(), strict=True))
    return [Process(pid, names[pid], mm) for pid, mm in pairs if not pids or pid in pids]


def warn_of_missing(pids: Collection[int], found: list[Process]) -> None:
    """Say in the log which of ``pids`` no process has."""
    for pid in sorted(set(pids) - {process.pid for process in found}):
        log.warning("no process in the task list has pid %d and user memory", pid)


def _vma_columns(views: Views, compared: Comparison) -> list[list[Any]]:
    """The columns of all VMAs after PID and Process, as values volatility3 accepts."""
    vmas, shown = compared.vmas, compared.cells()
    known = vmas.ok.tolist()
    # The list and the tree take their bounds from the VMA; where that is unreadable, they have none.
    bounded = (vmas.ok | (vmas.end != 0)).tolist()
    pgoff = np.where(vmas.file != 0, views.arch.bytes_of(vmas.pgoff), np.uint64(0))  # show_map_vma
    flags = {value: vma_permissions(value) for value in distinct(vmas.flags).tolist()}
    kinds = {int(kind): kind.label for kind in Kind}
    named = vmas.name.tolist()
    names: dict[bytes, Any] = {b"": NOT_APPLICABLE, _UNKNOWN_NAME: UNREADABLE}
    for name in {compared.names[place] for place in named} - names.keys():
        names[name] = printable(name)
    without: list[Any] = [NOT_APPLICABLE] * len(vmas)
    return [
        _where(bounded, _hex(vmas.start)),
        _where(bounded, _hex(vmas.end)),
        _where(known, [flags[value] for value in vmas.flags.tolist()]),
        _where(known, _hex(pgoff)),
        _where(known, [kinds[value] for value in vmas.kind.tolist()]),
        *(
            [_VALUES[state] for state in shown[view].state.tolist()] if view in shown else without
            for view, _ in VIEW_COLUMNS
        ),
        _where(known, compared.agrees().tolist()),
        _hex(vmas.vma),
        _where(known, [names[compared.names[place]] for place in named]),
    ]


def _run_columns(compared: Comparison) -> list[list[Any]]:
    """The same columns for page-table entries without a VMA: what the page tables alone know."""
    runs = compared.runs
    count = len(runs)
    without: list[Any] = [NOT_APPLICABLE] * count
    held = {View.PAGE_TABLES: [True] * count} | {view: [False] * count for view in compared.indices}
    contents = [run_content(compared, row) for row in range(count)]
    return [
        _hex(runs.start),
        _hex(runs.end),
        [rights(allow) for allow in runs.allow.tolist()],
        without,
        ["no area"] * count,
        *(held.get(view, without) for view, _ in VIEW_COLUMNS),
        without,
        without,
        [f"holds {text}" if text else NOT_APPLICABLE for text in contents],
    ]


def _hex(values: NDArray[np.uint64]) -> list[Any]:
    return [format_hints.Hex(value) for value in values.tolist()]


def _where(known: list[bool], values: list[Any]) -> list[Any]:
    """``values``, unreadable where not ``known``."""
    if all(known):
        return values
    return [value if readable else UNREADABLE for value, readable in zip(values, known, strict=True)]


def summary(views: Views) -> Iterator[str]:
    """What the views could not read or believe: a sentence per view and kind of problem, with counts."""
    problems = views.problems.sort_by(views.problems.view, views.problems.problem)
    first = run_starts(begins_run(problems.view, problems.problem))
    for row, last in zip(first.tolist(), run_lasts(first, len(problems)).tolist(), strict=True):
        owners = distinct(problems.mm[row : last + 1])
        mms = int((owners != 0).sum())
        within = f" of {counted(mms, 'address space')}" if mms else ""
        yield (
            f"{View(int(problems.view[row])).label}: {Problem(int(problems.problem[row])).text}, "
            f"in {counted(int(problems.count[row : last + 1].sum()), 'place')}{within} "
            f"(first: {int(problems.value[row]):#x} at {int(problems.where[row]):#x})"
        )
