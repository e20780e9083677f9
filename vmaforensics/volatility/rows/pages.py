# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Rows for volatility3's grids: page-table entries, with page, owner and VMA."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from volatility3.framework.renderers import format_hints

from vmaforensics.errors import UsageError
from vmaforensics.volatility.rows.regions import NOT_APPLICABLE, UNREADABLE, Row, processes, warn_of_missing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vmaforensics.report.document.page_entries import PageRun
    from vmaforensics.volatility.rows.session import Session

log = logging.getLogger(__name__)

COLUMNS: list[tuple[str, type]] = [
    ("PID", int),
    ("Process", str),
    ("Start", format_hints.Hex),
    ("End", format_hints.Hex),
    ("Pages", int),
    ("Entry", format_hints.Hex),
    ("State", str),
    ("Level", int),
    ("PFN", format_hints.Hex),
    ("Consecutive", bool),
    ("Allows", str),
    ("Owner", str),
    ("Mapping", format_hints.Hex),
    ("Index", format_hints.Hex),
    ("Mapcount", int),
    ("Page flags", str),
    ("VMA", format_hints.Hex),
    ("Area", str),
    ("Disagrees", str),
]


def page_rows(
    session: Session, pids: Collection[int] = (), addresses: Collection[int] = (), *, each: bool = False
) -> Iterator[Row]:
    """One row of :data:`COLUMNS` per run of equal neighbouring entries (``each``: per entry) of each process.

    Of each of ``addresses``, the VMA that covers it, or, where none does, the entries around it that no VMA
    covers.
    """
    from vmaforensics.compare.ranges import entries_within
    from vmaforensics.report.document.page_entries import page_runs

    wanted = processes(session.views, pids)
    warn_of_missing(pids, wanted)
    known: set[int] = set()
    for pid, comm, mm in wanted:
        behind = 0  # areas may lie in each other: no entry comes twice
        for low, high in sorted(set(_ranges(session, mm, addresses, known))):
            rows = entries_within(session.views, mm, low, high)
            rows = range(max(rows.start, behind), rows.stop)
            behind = max(behind, rows.stop)
            for run in page_runs(session.kernel, session.views, rows, each=each):
                yield (pid, comm, *_row(run))
    for address in sorted(set(addresses) - known):
        log.warning("neither a VMA nor a page-table entry covers %#x in these processes", address)


def _ranges(session: Session, mm: int, addresses: Collection[int], known: set[int]) -> Iterator[tuple[int, int]]:
    from vmaforensics.compare.ranges import range_at

    if not addresses:
        yield 0, 1 << 64
    for address in addresses:
        try:
            yield range_at(session.views, mm, address)
        except UsageError:
            continue
        known.add(address)


def _row(run: PageRun) -> Row:
    """One run of page-table entries, in the order of :data:`COLUMNS`."""
    owned: Any = run.owner or NOT_APPLICABLE
    return (
        _hex(run.start),
        _hex(run.end),
        run.pages,
        _hex(run.entry),
        run.state,
        run.level,
        _hex(run.pfn),
        run.consecutive,
        run.perms,
        owned,
        _hex(run.mapping),
        _hex(run.index),
        UNREADABLE if run.mapcount is None else run.mapcount,
        " ".join(run.flags) or NOT_APPLICABLE,
        _hex(run.vma),
        run.area,
        "; ".join(run.marks) or NOT_APPLICABLE,
    )


def _hex(text: str | None) -> Any:  # noqa: ANN401
    return NOT_APPLICABLE if text is None else format_hints.Hex(int(text, 16))
