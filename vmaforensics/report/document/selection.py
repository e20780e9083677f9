"""A document with less in it: some processes, some rules, some severities, nothing of who made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vmaforensics.errors import UsageError
from vmaforensics.report.document.parts import NotAssessed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding
    from vmaforensics.report.document.parts import Process

SEVERITIES = ("critical", "high", "medium", "low", "info")
NOT_RECORDED = "(not recorded)"


def select(
    document: Document,
    *,
    pids: Collection[int] | None = None,
    rules: Collection[str] | None = None,
    min_severity: str | None = None,
) -> Document:
    """The document with those processes, and those of their findings, only. None takes all.

    What ``rules`` and ``min_severity`` leave out is counted in ``not_assessed``, so that a verdict never says
    more than was looked at. Raises :class:`UsageError` for a pid that no process has.
    """
    known = {process.pid for process in document.processes}
    for pid in pids or ():
        if pid not in known:
            raise UsageError(f"no process of the image has pid {pid}; `vmaforensics report IMAGE -v` lists them")
    kept = [finding for finding in document.findings if pids is None or finding.pid in pids]
    findings, left_out = list(kept), []
    if rules is not None:
        findings, dropped = _parted(findings, [finding.rule in rules for finding in findings])
        left_out += _left_out("findings of other rules", "only some rules were asked for (--rules)", dropped)
    if min_severity is not None:
        weighty = SEVERITIES[: SEVERITIES.index(min_severity) + 1]
        findings, dropped = _parted(findings, [finding.severity in weighty for finding in findings])
        why = f"only findings from {min_severity} on were asked for (--min-severity)"
        left_out += _left_out(f"findings below {min_severity}", why, dropped)
    chosen = document.processes if pids is None else list(_processes(document.processes, pids))
    named = {item.mm for item in (findings if pids is None else chosen)}
    maps = [memory_map for memory_map in document.maps if memory_map.mm in named]
    without = {finding.mm for finding in findings if finding.severity != "info"} - {
        memory_map.mm for memory_map in maps
    }
    return msgspec.structs.replace(
        document,
        processes=chosen,
        findings=findings,
        maps=maps,
        maps_left_out=min(document.maps_left_out, len(without)),
        not_assessed=[*document.not_assessed, *left_out],
    )


def _parted(findings: list[Finding], kept: list[bool]) -> tuple[list[Finding], int]:
    return [finding for finding, keep in zip(findings, kept, strict=True) if keep], kept.count(False)


def _left_out(what: str, why: str, count: int) -> list[NotAssessed]:
    return [NotAssessed(what=what, why=f"{count} left out: {why}", count=count)] if count else []


def _processes(processes: list[Process], pids: Collection[int]) -> Iterator[Process]:
    """Those of ``pids``. Where several share an mm, the first of them that is left holds its regions."""
    regions = {
        process.mm: process.regions for process in processes if process.mm is not None and process.shares_with is None
    }
    owner: dict[str, int] = {}
    for process in processes:
        if process.pid not in pids:
            continue
        first = owner.setdefault(process.mm, process.pid) if process.mm is not None else process.pid
        if process.shares_with is None or first == process.shares_with:
            yield process
        elif first == process.pid:
            yield msgspec.structs.replace(process, shares_with=None, regions=regions.get(process.mm or "", []))
        else:
            yield msgspec.structs.replace(process, shares_with=first)


def reproducible(document: Document) -> Document:
    """The document without what another machine, or another place of the same file, would change: the path, the
    versions of Python and of the libraries. What remains depends on the image, the options and our version."""
    origin = document.provenance
    details = {
        # The further files of a split dump: their hashes stay.
        name: NOT_RECORDED if name.startswith("part ") and not name.endswith("sha256") else text
        for name, text in origin.file.details.items()
    }
    file = msgspec.structs.replace(origin.file, path=NOT_RECORDED, details=details)
    return msgspec.structs.replace(
        document, provenance=msgspec.structs.replace(origin, python=NOT_RECORDED, dependencies={}, file=file)
    )
