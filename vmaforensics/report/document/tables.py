"""The document's tables as NumPy structured arrays, for users: ``findings``, ``evidence``, ``regions``, ``processes``.

Addresses and flag words are ``uint64``; 0 stands for none where no ``has_...`` column says otherwise. Text is in
``object`` columns. -1 stands for no pid.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from vmaforensics.report.document.findings import Finding
    from vmaforensics.report.document.parts import Process

INDICES = ("list", "rbtree", "maple")  # the members of document.Seen
_MOST, _LAST = (1 << 63) - 1, (1 << 64) - 1
COUNTERS = ("map_count", "total_vm", "exec_vm", "stack_vm", "data_vm")

FINDINGS = np.dtype(
    [
        ("id", "O"),
        ("severity", "O"),
        ("confidence", "O"),
        ("rule", "O"),
        ("rule_title", "O"),
        ("pid", "i8"),
        ("comm", "O"),
        ("mm", "u8"),
        ("has_range", "?"),
        ("start", "u8"),
        ("end", "u8"),  # [start, end); 0 without a range
        ("title", "O"),
        ("lock", "O"),
        ("vma", "u8"),
        ("flags", "O"),  # flags: names with a space between
        ("evidence", "i8"),  # pieces of evidence
        ("attack", "O"),  # technique ids with a space between
    ]
)

EVIDENCE = np.dtype(
    [
        ("finding", "O"),
        ("rule", "O"),
        ("severity", "O"),
        ("pid", "i8"),
        ("number", "i8"),  # number: from 1
        ("view", "O"),
        ("address", "u8"),
        ("what", "O"),
        ("found", "O"),
        ("expected", "O"),
    ]
)

REGIONS = np.dtype(
    [
        ("pid", "i8"),
        ("comm", "O"),
        ("mm", "u8"),
        ("start", "u8"),
        ("end", "u8"),
        ("size", "u8"),  # bytes
        ("perms", "O"),
        ("flags", "u8"),
        ("pgoff", "u8"),  # pgoff: bytes into the file
        ("kind", "O"),
        ("name", "O"),
        ("dev", "O"),
        ("inode", "u8"),
        ("vma", "u8"),
        ("readable", "?"),
        # For each index "held", "missing", or "" where there is no such index; and the word that points to the VMA.
        *((name, "O") for name in INDICES),
        *((f"{name}_at", "u8") for name in INDICES),
    ]
)

PROCESSES = np.dtype(
    [
        ("pid", "i8"),
        ("comm", "O"),
        ("exe", "O"),
        ("parent", "i8"),
        ("started", "datetime64[s]"),
        ("kind", "O"),
        ("task", "u8"),
        ("mm", "u8"),
        ("lock", "O"),
        ("shares_with", "i8"),
        ("threads", "i8"),
        ("regions", "i8"),
        ("findings", "i8"),
        *((name, "i8") for name in COUNTERS),  # as stored in mm_struct, at most 2**63 - 1; -1: unknown
        *((f"{name}_of_areas", "i8") for name in COUNTERS),  # what the VMAs add up to; -1: unknown
    ]
)


def _findings(processes: Sequence[Process], findings: Sequence[Finding]) -> NDArray[np.void]:
    """The rows of :data:`FINDINGS`, one per finding, in the order of the document."""
    rows = findings
    return columns_of_rows(
        FINDINGS,
        len(rows),
        id=[row.id for row in rows],
        severity=[row.severity for row in rows],
        confidence=[row.confidence for row in rows],
        rule=[row.rule for row in rows],
        rule_title=[row.rule_title for row in rows],
        pid=[row.pid for row in rows],
        comm=[row.comm for row in rows],
        mm=_numbers(row.mm for row in rows),
        has_range=[row.start is not None for row in rows],
        start=_numbers(row.start for row in rows),
        end=_numbers(row.end for row in rows),
        title=[row.title for row in rows],
        lock=[row.lock for row in rows],
        vma=_numbers(row.vma for row in rows),
        flags=[" ".join(row.flags) for row in rows],
        evidence=[len(row.evidence) for row in rows],
        attack=[" ".join(item.id for item in row.attack) for row in rows],
    )


def _evidence(processes: Sequence[Process], findings: Sequence[Finding]) -> NDArray[np.void]:
    rows = [(finding, at, item) for finding in findings for at, item in enumerate(finding.evidence, 1)]
    return columns_of_rows(
        EVIDENCE,
        len(rows),
        finding=[row.id for row, _, _ in rows],
        rule=[row.rule for row, _, _ in rows],
        severity=[row.severity for row, _, _ in rows],
        pid=[row.pid for row, _, _ in rows],
        number=[at for _, at, _ in rows],
        view=[item.view for _, _, item in rows],
        address=_numbers(item.address for _, _, item in rows),
        what=[item.what for _, _, item in rows],
        found=[item.found for _, _, item in rows],
        expected=[item.expected for _, _, item in rows],
    )


def _regions(processes: Sequence[Process], findings: Sequence[Finding]) -> NDArray[np.void]:
    """The rows of :data:`REGIONS`, in the order of the processes and of their regions."""
    owners = [process for process in processes if process.regions]
    lengths = [len(process.regions) for process in owners]
    rows = [region for process in owners for region in process.regions]
    start, end = _numbers(row.start for row in rows), _numbers(row.end for row in rows)
    indices: dict[str, list[str] | list[int]] = {}
    for name in INDICES:
        seen = [getattr(row.seen, name) for row in rows]
        indices[name] = ["held" if isinstance(item, str) else "missing" if item is None else "" for item in seen]
        indices[f"{name}_at"] = _numbers(None if item is msgspec.UNSET else item for item in seen)
    return columns_of_rows(
        REGIONS,
        len(rows),
        pid=np.repeat(np.array([process.pid for process in owners], np.int64), lengths),
        comm=np.repeat(np.array([process.comm for process in owners], object), lengths),
        mm=np.repeat(np.array(_numbers(process.mm for process in owners), np.uint64), lengths),
        start=start,
        end=end,
        # An end that lies below its start, as of a broken vm_area_struct, has no size.
        size=[max(high - low, 0) for low, high in zip(start, end, strict=True)],
        perms=[row.perms for row in rows],
        flags=_numbers(row.flags for row in rows),
        pgoff=_numbers(row.pgoff for row in rows),
        kind=[row.kind for row in rows],
        name=[row.name for row in rows],
        dev=[row.dev for row in rows],
        inode=[row.inode for row in rows],
        vma=_numbers(row.vma for row in rows),
        readable=[row.readable for row in rows],
        **indices,
    )


def _processes(processes: Sequence[Process], findings: Sequence[Finding]) -> NDArray[np.void]:
    """The rows of :data:`PROCESSES`; -1 stands for a number that is not known, NaT for such a time."""
    rows = processes
    found = Counter(finding.mm for finding in findings)
    counters: dict[str, list[int]] = {name: [] for counter in COUNTERS for name in (counter, f"{counter}_of_areas")}
    for row in rows:
        known = {counter.name: counter for counter in row.counters}
        for name in COUNTERS:
            counters[name].append(min(known[name].stored, _MOST) if name in known else -1)
            counters[f"{name}_of_areas"].append(min(known[name].areas, _MOST) if name in known else -1)
    return columns_of_rows(
        PROCESSES,
        len(rows),
        pid=[row.pid for row in rows],
        comm=[row.comm for row in rows],
        exe=[row.exe for row in rows],
        parent=[-1 if row.parent is None else row.parent for row in rows],
        started=np.array(["NaT" if row.started is None else row.started[:19] for row in rows], "datetime64[s]"),
        kind=[row.kind for row in rows],
        task=_numbers(row.task for row in rows),
        mm=_numbers(row.mm for row in rows),
        lock=[row.lock or "" for row in rows],
        shares_with=[-1 if row.shares_with is None else row.shares_with for row in rows],
        threads=[len(row.threads) + 1 for row in rows],
        regions=[len(row.regions) for row in rows],
        findings=[found[row.mm] if row.mm else 0 for row in rows],
        **counters,
    )


def columns_of_rows(dtype: np.dtype[np.void], length: int, **columns: object) -> NDArray[np.void]:
    """A structured array of ``length`` rows, each column from a sequence of as many values."""
    rows = np.empty(length, dtype)
    for name, values in columns.items():
        # As an object array at once: an array of text is as wide as its longest row, in every row.
        rows[name] = np.array(values, dtype[name])
    return rows


def _numbers(texts: Iterable[str | None]) -> list[int]:
    """Addresses out of their hexadecimal text; 0 for none. An end of 2**64 is the last that fits."""
    return [0 if text is None else min(int(text, 16), _LAST) for text in texts]


# A table is made of the processes and the findings of a document, whose order its rows have.
TABLES: dict[str, Callable[[Sequence[Process], Sequence[Finding]], NDArray[np.void]]] = {
    "findings": _findings,
    "evidence": _evidence,
    "regions": _regions,
    "processes": _processes,
}
