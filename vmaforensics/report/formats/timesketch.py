"""Rows for a timeline in Timesketch: JSON lines, each an event with a time that the image itself tells.

A VMA has no time of creation, and a finding none of happening: a finding stands at the time at which the memory
was taken, which is when it was true; in a crash dump that is the time of the crash. Times are the kernel's own
(``kernel.clock``, boot time, start times of tasks); where one could not be read, there are no rows of that kind.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vmaforensics.errors import UsageError
from vmaforensics.report.document.json_text import json_text
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding
    from vmaforensics.report.document.parts import Process

_LONGEST = 32_000  # bytes of a field; OpenSearch refuses a keyword of 32,766 or more
ACQUIRED, CRASHED, BOOTED, STARTED = "Memory Acquired", "Kernel Crash", "System Boot", "Process Start"


def render_timesketch(document: Document) -> bytes:
    """The rows by time. Raises :class:`UsageError` if the image tells no time at all."""
    rows = sorted(_rows(document), key=lambda row: str(row["datetime"]))  # all are UTC
    if not rows:
        raise UsageError(
            "no timeline can be made: the kernel's clock could not be read in this image, and it names no crash time"
        )
    return b"".join(json_text(row) + b"\n" for row in rows)


def _rows(document: Document) -> Iterator[dict[str, object]]:
    kernel = document.kernel
    if kernel.booted is not None:
        yield from _row(document, kernel.booted, BOOTED, f"Linux {kernel.release} booted")
    for process in document.processes:
        if process.started is not None:
            yield from _row(document, process.started, STARTED, _started(process), **_process(process))
    if kernel.crashed is not None:
        taken, desc, what = kernel.crashed, CRASHED, f"Linux {kernel.release} crashed"
    elif kernel.clock is not None:
        taken, desc, what = kernel.clock, ACQUIRED, "memory was acquired"
    else:
        return
    yield from _row(document, taken, desc, f"{what}; {document.verdict}")
    for finding in document.findings:
        yield from _row(document, taken, desc, _found(finding), **_finding(finding))


def _row(document: Document, when: str, desc: str, message: str, **fields: object) -> Iterator[dict[str, object]]:
    """One event, none if ``when`` is no time: message, datetime and timestamp_desc are what Timesketch asks for."""
    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        return
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    row = {
        "message": message,
        "datetime": moment.isoformat(),
        "timestamp": round(moment.timestamp() * 1_000_000),  # microseconds
        "timestamp_desc": desc,
        "data_type": "linux:memory:vmaforensics",
        "hostname": document.kernel.hostname,
        "kernel_release": document.kernel.release,
        "image": document.provenance.file.path,
        "image_sha256": document.provenance.file.sha256,
        **fields,
    }
    yield {name: _bounded(value) for name, value in row.items() if value not in (None, "")}


def _started(process: Process) -> str:
    program = f", {process.exe}" if process.exe else ""
    return f"process {process.pid} ({process.comm}{program}) was started"


def _process(process: Process) -> dict[str, object]:
    return {
        "pid": process.pid,
        "process_name": process.comm,
        "executable": process.exe,
        "parent_pid": process.parent,
        "task_struct": process.task,
        "mm_struct": process.mm,
    }


def _found(finding: Finding) -> str:
    who = f"pid {finding.pid} ({finding.comm}): " if finding.pid or finding.comm else ""
    return f"[{finding.severity}] {finding.rule} {who}{finding.title}"


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "finding_id": finding.id,
        "rule": finding.rule,
        "rule_title": finding.rule_title,
        "severity": finding.severity,
        "confidence": finding.confidence,
        "pid": finding.pid,
        "process_name": finding.comm,
        "mm_struct": finding.mm,
        "range_start": finding.start,
        "range_end": finding.end,
        "evidence": "; ".join(item.what for item in finding.evidence),
        "attack_technique": " ".join(item.id for item in finding.attack),
        "tag": ["vmaforensics", finding.severity, *(item.id for item in finding.attack)],
    }


def _bounded(value: object) -> object:
    """Text of one line, cut to what a keyword may hold."""
    if isinstance(value, list):
        return [_bounded(item) for item in value]
    if not isinstance(value, str):
        return value
    raw = printable(value).encode()
    return raw.decode() if len(raw) <= _LONGEST else raw[:_LONGEST].decode(errors="ignore") + "…"
