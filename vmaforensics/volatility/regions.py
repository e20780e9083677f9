# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Rows for volatility3's grids: every region of every process, and which records know it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from volatility3.framework import renderers
from volatility3.framework.renderers import format_hints

from vmaforensics.image.source import plural
from vmaforensics.report.maps import permissions
from vmaforensics.report.printable import printable
from vmaforensics.views.tables import REGIONS, Kind, Problem, View, Views

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

Row = tuple[Any, ...]

# The views that list regions, and what their column is called. The columns are the same for every kernel.
VIEW_COLUMNS = ((View.LIST, "In list"), (View.RBTREE, "In rbtree"), (View.MAPLE, "In maple"))

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

_UNREADABLE = renderers.UnreadableValue()
_NOT_APPLICABLE = renderers.NotApplicableValue()
_UNKNOWN_NAME = b"?"  # vma_names: the file or mapping has a name, and it is not in the dump


def region_rows(views: Views, pids: Collection[int] = ()) -> Iterator[Row]:
    """One row of :data:`COLUMNS` per process and region, by pid (all, if none are named) and address.

    A region is a VMA and a range: a VMA that two views give two ranges has two rows. Processes that share an
    address space (vfork, CLONE_VM) each have its rows; one of whose regions none could be read has a row
    that says so. ``VMA agrees`` tells whether the ``vm_area_struct`` itself names this range and this
    address space.
    """
    table, within = union(views)
    columns = _columns(views, table, within)
    absent = {name: _NOT_APPLICABLE for view, name in VIEW_COLUMNS if view not in within}
    nothing = [absent.get(name, _UNREADABLE) for name, _ in COLUMNS[2:]]
    wanted = processes(views, pids)
    for pid in sorted(set(pids) - {pid for pid, _, _ in wanted}):
        log.warning("no process in the task list has pid %d and user memory", pid)
    for pid, comm, mm in wanted:
        low, high = (int(np.searchsorted(table["mm"], np.uint64(mm), side)) for side in ("left", "right"))
        for row in zip(*(column[low:high] for column in columns), strict=True):
            yield (pid, comm, *row)
        if low == high:
            yield (pid, comm, *nothing)


def processes(views: Views, pids: Collection[int] = ()) -> list[tuple[int, str, int]]:
    """(pid, name, mm) of every process that has an address space, by pid.

    A process is named by its leader. Its threads share one mm; if one of them says otherwise, the process is
    listed once for each.
    """
    tasks = views.tasks[views.tasks["ok"]]
    names: dict[int, str] = {}
    for pid, comm in zip(tasks["tgid"].tolist(), tasks["comm"].tolist(), strict=True):
        names.setdefault(pid, printable(comm.split(b"\0", 1)[0]))  # leaders come first
    users = tasks[tasks["mm"] != 0]
    pairs = dict.fromkeys(zip(users["tgid"].tolist(), users["mm"].tolist(), strict=True))
    return [(pid, names[pid], mm) for pid, mm in pairs if not pids or pid in pids]


def union(views: Views) -> tuple[NDArray[np.void], dict[View, NDArray[np.bool_]]]:
    """The regions of all views without repeats, and which of them each view has.

    Returns rows of dtype ``REGIONS`` (``slot`` and ``order`` are those of the first view), sorted by mm,
    start, end and VMA.
    """
    listed = views.regions()
    rows = np.concatenate([np.zeros(0, REGIONS), *listed.values()])
    of = np.repeat(np.array([*listed], np.uint8), [len(part) for part in listed.values()])
    order = np.lexsort((of, rows["vma"], rows["end"], rows["start"], rows["mm"]))
    rows, of = rows[order], of[order]
    first = np.ones(len(rows), np.bool_)
    same = np.ones(max(len(rows) - 1, 0), np.bool_)
    for name in ("mm", "start", "end", "vma"):
        same &= rows[name][1:] == rows[name][:-1]
    first[1:] = ~same
    number = np.cumsum(first) - 1
    within = {}
    for view in listed:
        within[view] = np.zeros(int(first.sum()), np.bool_)
        within[view][number[of == view]] = True
    return rows[first], within


def _columns(views: Views, table: NDArray[np.void], within: dict[View, NDArray[np.bool_]]) -> list[list[Any]]:
    """The columns of all rows of ``table`` after PID and Process, as values volatility3 accepts."""
    at = views.vma_rows(table["vma"])
    vmas = views.vmas[at]
    ok = vmas["ok"] & (at >= 0)
    known = ok.tolist()
    # The list and the tree take their bounds from the VMA; where that is unreadable, they have none.
    bounded = (ok | (table["end"] != 0)).tolist()
    agrees = (vmas["start"] == table["start"]) & (vmas["end"] == table["end"]) & (vmas["mm"] == table["mm"])
    pgoff = np.where(vmas["file"] != 0, vmas["pgoff"] << np.uint64(12), np.uint64(0))  # show_map_vma
    flags = {value: permissions(value) for value in np.unique(vmas["flags"]).tolist()}
    kinds = {int(kind): kind.label for kind in Kind}
    names: dict[bytes, Any] = {b"": _NOT_APPLICABLE, _UNKNOWN_NAME: _UNREADABLE}
    for name in set(views.names) - names.keys():
        names[name] = printable(name)
    return [
        _where(bounded, _hex(table["start"])),
        _where(bounded, _hex(table["end"])),
        _where(known, [flags[value] for value in vmas["flags"].tolist()]),
        _where(known, _hex(pgoff)),
        _where(known, [kinds[value] for value in vmas["kind"].tolist()]),
        *(
            within[view].tolist() if view in within else [_NOT_APPLICABLE] * len(table)
            for view, _ in VIEW_COLUMNS
        ),
        _where(known, agrees.tolist()),
        _hex(table["vma"]),
        _where(known, [names[views.names[row]] for row in at.tolist()]),
    ]


def _hex(values: NDArray[np.uint64]) -> list[Any]:
    return [format_hints.Hex(value) for value in values.tolist()]


def _where(known: list[bool], values: list[Any]) -> list[Any]:
    """``values``, unreadable where not ``known``."""
    if all(known):
        return values
    return [value if fine else _UNREADABLE for value, fine in zip(values, known, strict=True)]


def summary(views: Views) -> Iterator[str]:
    """What the views could not read or believe: a sentence per view and kind of problem, with counts."""
    problems = views.problems
    for view, problem in np.unique(problems[["view", "problem"]]).tolist():
        rows = problems[(problems["view"] == view) & (problems["problem"] == problem)]
        mms = len(np.unique(rows["mm"][rows["mm"] != 0]))
        within = f" of {plural(mms, 'address space')}" if mms else ""
        yield (
            f"{View(view).label}: {Problem(problem).text}, in {plural(len(rows), 'place')}{within} "
            f"(first: {int(rows['value'][0]):#x} at {int(rows['where'][0]):#x})"
        )
