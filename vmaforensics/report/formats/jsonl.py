"""JSON lines, for jq and log pipelines: one object a line, each to be understood without the others.

Every line has ``kind``. The first is the ``report`` (verdict and counts), then one ``finding`` each, then one ``match``
for each place that a YARA rule matched, then one ``not_assessed`` each. Every line repeats the image and the kernel it
is about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vmaforensics.report.document.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.report.document.document import Document

VERSION = "1.0"  # of the lines
_SEVERITIES = ("critical", "high", "medium", "low", "info")


def render_jsonl(document: Document) -> bytes:
    """The lines, each with a newline at its end."""
    return b"".join(json_text(line) + b"\n" for line in _lines(document))


def _lines(document: Document) -> Iterator[dict[str, object]]:
    about = _about(document)
    counts = {name: sum(finding.severity == name for finding in document.findings) for name in _SEVERITIES}
    yield {
        "kind": "report",
        **about,
        "verdict": document.verdict,
        "findings": counts,
        "not_assessed": len(document.not_assessed),
        "processes": document.kernel.processes,
        "views": document.kernel.views,
        "coverage": document.provenance.coverage,
    }
    if document.crash is not None:
        yield {"kind": "crash", **about, **msgspec.structs.asdict(document.crash)}
    for finding in document.findings:
        yield {"kind": "finding", **about, **msgspec.structs.asdict(finding)}
    for found in document.scan.findings if document.scan is not None else ():
        yield {"kind": "match", **about, **msgspec.structs.asdict(found)}
    for missing in document.not_assessed:
        yield {"kind": "not_assessed", **about, **msgspec.structs.asdict(missing)}


def _about(document: Document) -> dict[str, object]:
    """What every line repeats."""
    file, kernel, origin = document.provenance.file, document.kernel, document.provenance
    return {
        "format": f"vmaforensics-jsonl {VERSION}",
        "tool": f"{origin.tool} {origin.version}",
        "image": {"path": file.path, "size": file.size, "format": file.format, "sha256": file.sha256},
        "kernel": {
            "release": kernel.release,
            "build_id": kernel.build_id,
            "hostname": kernel.hostname,
            "booted": kernel.booted,
            "clock": kernel.clock,
        },
    }
