"""A layer for the ATT&CK Navigator: the techniques that findings are consistent with.

The format is version 4.5 of MITRE's layer file format (attack-navigator, layers/LAYERFORMATv4_5.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.report.document.json_text import json_text
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding, Technique

VERSIONS = {"attack": "19", "navigator": "5.2.0", "layer": "4.5"}
SCORES = {"critical": 100, "high": 75, "medium": 50, "low": 25, "info": 5}
_MOST = 20  # findings named in a comment
_LONGEST = 200  # characters of a process's name there


def render_navigator(document: Document) -> bytes:
    """One line of JSON. A technique's score is that of its most severe finding; its comment names the findings."""
    techniques: dict[str, tuple[Technique, list[Finding]]] = {}
    for finding in document.findings:
        for technique in finding.attack:
            techniques.setdefault(technique.id, (technique, []))[1].append(finding)
    return json_text(_layer(document, [_technique(*techniques[name]) for name in sorted(techniques)])) + b"\n"


def _layer(document: Document, techniques: list[dict[str, object]]) -> dict[str, object]:
    """A layer of the ATT&CK Navigator, format 4.5 (LAYERFORMATv4_5.md), around ``techniques``."""
    kernel, origin = document.kernel, document.provenance
    about = {
        "image": origin.file.path,
        "sha256": origin.file.sha256 or "",
        "kernel": kernel.release,
        "build id": kernel.build_id or "",
        "host": kernel.hostname,
        "image taken": kernel.clock or "",
        "tool": f"{origin.tool} {origin.version}",
        "not assessed": str(len(document.not_assessed)),
    }
    return {
        "name": f"vmaforensics: {_short(kernel.hostname or kernel.release)}",
        "versions": VERSIONS,
        "domain": "enterprise-attack",
        "description": "Techniques that the findings are consistent with, which is no proof that one was used. "
        + printable(document.verdict),
        "filters": {"platforms": ["Linux"]},
        "sorting": 3,  # descending by score
        "layout": {"layout": "side", "showID": True, "showName": True, "expandedSubtechniques": "annotated"},
        "hideDisabled": False,
        "techniques": techniques,
        "gradient": {"colors": ["#ffffff", "#ffe766", "#d7301f"], "minValue": 0, "maxValue": 100},
        "legendItems": [
            {"label": "critical or high finding", "color": "#d7301f"},
            {"label": "medium finding", "color": "#ffe766"},
            {"label": "low finding or information", "color": "#fff3b3"},
        ],
        "metadata": [{"name": name, "value": printable(value)} for name, value in about.items() if value],
    }


def _technique(technique: Technique, findings: list[Finding]) -> dict[str, object]:
    counts = {name: sum(finding.severity == name for finding in findings) for name in SCORES}
    lines = [_line(finding) for finding in findings[:_MOST]]
    if len(findings) > _MOST:
        lines.append(f"and {len(findings) - _MOST} more")
    return {
        "techniqueID": technique.id,
        "score": max(SCORES[finding.severity] for finding in findings),
        "comment": "\n".join(lines),
        "enabled": True,
        "metadata": [
            {"name": "technique", "value": printable(technique.name)},
            *({"name": f"{name} findings", "value": str(count)} for name, count in counts.items() if count),
        ],
    }


def _line(finding: Finding) -> str:
    who = f" pid {finding.pid} ({_short(finding.comm)})" if finding.pid or finding.comm else ""
    return f"{finding.severity}: {printable(finding.rule)}{who}, finding {printable(finding.id)}"


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "…"
