"""The document's tables as NumPy structured arrays, for users: ``findings``, ``evidence``, ``regions``, ``processes``.

Addresses and flag words are ``uint64``; 0 stands for none where no ``has_...`` column says otherwise. Text is in
``object`` columns. -1 stands for no pid.
"""

from __future__ import annotations

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
        # For each index "held", "missing", or "" where the kernel has no such index; and the word that led there.
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
        *((f"{name}_of_areas", "i8") for name in COUNTERS),  # what the areas add up to; -1: unknown
    ]
)


def _findings(processes: Sequence[Process], findings: Sequence[Finding]) -> NDArray[np.void]:
    rows = findings
    return _columns(
        FINDINGS,
        len(rows),
        id=[one.id for one in rows],
        severity=[one.severity for one in rows],
        confidence=[one.confidence for one in rows],
        rule=[one.rule for one in rows],
        rule_title=[one.rule_title for one in rows],
        pid=[one.pid for one in rows],
        comm=[one.comm for one in rows],
        mm=_numbers(one.mm for one in rows),
        has_range=[one.start is not None for one in rows],
        start=_numbers(one.start for one in rows),
        end=_numbers(one.end for one in rows),
        title=[one.title for one in rows],
        lock=[one.lock for one in rows],
        vma=_numbers(one.vma for one in rows),
        flags=[" ".join(one.flags) for one in rows],
        evidence=[len(one.evidence) for one in rows],
        attack=[" ".join(item.id for item in one.attack) for one in rows],
    )


def _evidence(processes: Sequence[Process], findings: Sequence[Finding]) -> NDArray[np.void]:
    rows = [(one, at, item) for one in findings for at, item in enumerate(one.evidence, 1)]
    return _columns(
        EVIDENCE,
        len(rows),
        finding=[one.id for one, _, _ in rows],
        rule=[one.rule for one, _, _ in rows],
        severity=[one.severity for one, _, _ in rows],
        pid=[one.pid for one, _, _ in rows],
        number=[at for _, at, _ in rows],
        view=[item.view for _, _, item in rows],
        address=_numbers(item.address for _, _, item in rows),
        what=[item.what for _, _, item in rows],
        found=[item.found for _, _, item in rows],
        expected=[item.expected for _, _, item in rows],
    )


def _regions(processes: Sequence[Process], findings: Sequence[Finding]) -> NDArray[np.void]:
    owners = [one for one in processes if one.regions]
    lengths = [len(one.regions) for one in owners]
    rows = [region for one in owners for region in one.regions]
    start, end = _numbers(one.start for one in rows), _numbers(one.end for one in rows)
    indices: dict[str, list[str] | list[int]] = {}
    for name in INDICES:
        seen = [getattr(one.seen, name) for one in rows]
        indices[name] = ["held" if isinstance(one, str) else "missing" if one is None else "" for one in seen]
        indices[f"{name}_at"] = _numbers(None if one is msgspec.UNSET else one for one in seen)
    return _columns(
        REGIONS,
        len(rows),
        pid=np.repeat(np.array([one.pid for one in owners], np.int64), lengths),
        comm=np.repeat(np.array([one.comm for one in owners], object), lengths),
        mm=np.repeat(np.array(_numbers(one.mm for one in owners), np.uint64), lengths),
        start=start,
        end=end,
        # An end that lies below its start, as of a broken vm_area_struct, has no size.
        size=[max(high - low, 0) for low, high in zip(start, end, strict=True)],
        perms=[one.perms for one in rows],
        flags=_numbers(one.flags for one in rows),
        pgoff=_numbers(one.pgoff for one in rows),
        kind=[one.kind for one in rows],
        name=[one.name for one in rows],
        dev=[one.dev for one in rows],
        inode=[one.inode for one in rows],
        vma=_numbers(one.vma for one in rows),
        readable=[one.readable for one in rows],
        **indices,
    )


def _processes(processes: Sequence[Process], findings: Sequence[Finding]) -> NDArray[np.void]:
    rows = processes
    told: dict[str, int] = {}
    for finding in findings:
        told[finding.mm] = told.get(finding.mm, 0) + 1
    counters: dict[str, list[int]] = {name: [] for counter in COUNTERS for name in (counter, f"{counter}_of_areas")}
    for one in rows:
        known = {counter.name: counter for counter in one.counters}
        for name in COUNTERS:
            counters[name].append(min(known[name].stored, _MOST) if name in known else -1)
            counters[f"{name}_of_areas"].append(min(known[name].areas, _MOST) if name in known else -1)
    return _columns(
        PROCESSES,
        len(rows),
        pid=[one.pid for one in rows],
        comm=[one.comm for one in rows],
        exe=[one.exe for one in rows],
        parent=[-1 if one.parent is None else one.parent for one in rows],
        started=np.array(["NaT" if one.started is None else one.started[:19] for one in rows], "datetime64[s]"),
        kind=[one.kind for one in rows],
        task=_numbers(one.task for one in rows),
        mm=_numbers(one.mm for one in rows),
        lock=[one.lock or "" for one in rows],
        shares_with=[-1 if one.shares_with is None else one.shares_with for one in rows],
        threads=[len(one.threads) + 1 for one in rows],
        regions=[len(one.regions) for one in rows],
        findings=[told.get(one.mm, 0) if one.mm else 0 for one in rows],
        **counters,
    )


def _columns(dtype: np.dtype[np.void], length: int, **columns: object) -> NDArray[np.void]:
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
