"""Findings as SARIF 2.1.0 (OASIS), for code-scanning dashboards and viewers: a run for an image, a result a finding.

Rules of cross-checking and YARA rules that matched are ``rules`` of one tool; the latter have ``yara/`` before their
names, and their results say what matched and where. A place in memory is an ``address``: of a process's memory, of the
kernel's, or physical. ``level`` follows the severity; what was not assessed are notifications of the tool.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from vmaforensics.report.document.json_text import json_text
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding
    from vmaforensics.scan.document import ScanFinding

Object = dict[str, object]

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "none"}
_YARA = "yara/"
_MOST = 64  # places of one result


def render_sarif(document: Document) -> bytes:
    """The log, as one line of JSON."""
    origin = document.provenance
    scanned = document.scan.findings if document.scan is not None else []
    rules = list(_rules(document.findings, scanned))
    places = {str(rule["id"]): place for place, rule in enumerate(rules)}
    results = [_finding(finding, places) for finding in document.findings]
    results += [_match(finding, places) for finding in scanned]
    run: Object = {
        "tool": {"driver": {"name": origin.tool, "version": origin.version, "rules": rules}},
        "artifacts": [_artifact(document)],
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": list(_gaps(document))}],
        "results": results,
        "columnKind": "unicodeCodePoints",
        "properties": {"verdict": document.verdict, "kernel": document.kernel.release},
    }
    return json_text({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}) + b"\n"


def _artifact(document: Document) -> Object:
    file = document.provenance.file
    artifact: Object = {"location": {"description": _text(file.path)}, "length": file.size}
    return artifact | ({"hashes": {"sha-256": file.sha256}} if file.sha256 else {})


def _rules(findings: list[Finding], scanned: list[ScanFinding]) -> Iterator[Object]:
    known = set[str]()
    for finding in findings:
        if finding.rule not in known:
            known.add(finding.rule)
            tags = [item.id for item in finding.attack]
            yield {
                "id": finding.rule,
                "shortDescription": _text(finding.rule_title),
                "fullDescription": _text(finding.why),
                "properties": {"tags": tags},
            }
    for found in scanned:
        name = _yara(found)
        if name not in known:
            known.add(name)
            meta = {key: value for key, value in found.meta.items() if key in ("description", "author", "reference")}
            yield {
                "id": name,
                "shortDescription": _text(str(meta.get("description", f"YARA rule {found.rule}"))),
                "properties": {"tags": list(found.tags), **meta},
            }


def _yara(found: ScanFinding) -> str:
    space = "" if found.namespace in ("", "default") else f"{found.namespace}:"
    return f"{_YARA}{space}{found.rule}"


def _finding(finding: Finding, places: dict[str, int]) -> Object:
    spots = [(finding.start, finding.process)] if finding.start is not None else []
    spots += [(item.address, item.what) for item in finding.evidence if item.address is not None]
    return {
        "ruleId": finding.rule,
        "ruleIndex": places[finding.rule],
        "level": _LEVELS[finding.severity],
        "message": _text(f"{finding.process}: {finding.title}"),
        "locations": [_place(*spot) for spot in spots[:1]],
        "relatedLocations": [_place(*spot) for spot in spots[1:_MOST]],
        "partialFingerprints": {"finding/v1": finding.id},
        "properties": {
            "severity": finding.severity,
            "confidence": finding.confidence,
            "pid": finding.pid,
            "comm": finding.comm,
            "mm": finding.mm,
            "start": finding.start,
            "end": finding.end,
            "benignCauses": list(finding.benign_causes),
        },
    }


def _match(found: ScanFinding, places: dict[str, int]) -> Object:
    spots = [(owner.address, f"pid {owner.pid} ({owner.comm})") for owner in found.owners]
    spots += [(match.physical, f"{match.pattern}: {match.text}") for match in found.matches]
    pids = sorted({owner.pid for owner in found.owners})
    whose = f", in memory of pid {', '.join(map(str, pids[:8]))}" if pids else ""
    return {
        "ruleId": _yara(found),
        "ruleIndex": places[_yara(found)],
        "kind": "review",
        "level": "none",  # of what is no failure by itself (SARIF 3.27.9)
        "message": _text(f"{found.rule} matches {found.place}{whose}"),
        "locations": [_place(*spot) for spot in spots[:1]],
        "relatedLocations": [_place(*spot) for spot in spots[1:_MOST]],
        "partialFingerprints": {"match/v1": hashlib.sha256(f"{found.id} {found.start}".encode()).hexdigest()},
        "properties": {
            "memory": found.where,
            "pids": pids,
            "hidden": any(owner.hidden for owner in found.owners),
            "holders": list(found.holders),
            "size": found.size,
        },
    }


def _place(address: str | None, what: str) -> Object:
    number = int(address or "0", 16)
    place: Object = {"fullyQualifiedName": printable(f"{number:#x}")}
    if number < 1 << 63:  # an absoluteAddress is a signed number to many readers
        place["absoluteAddress"] = number
    return {"physicalLocation": {"address": place}, "message": _text(what)}


def _gaps(document: Document) -> Iterator[Object]:
    for missing in document.not_assessed:
        yield {"level": "warning", "message": _text(f"not assessed: {missing.what}: {missing.why}")}


def _text(text: str) -> Object:
    return {"text": printable(text)}
