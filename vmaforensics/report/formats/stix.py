"""Findings as a STIX 2.1 bundle: what was observed, a note on each finding, and the techniques it is consistent with.

For each finding that is more than information: the ``process`` and the ``file`` it is about, an ``observed-data``
that holds them, and a ``note`` with the evidence. From medium severity on also a ``sighting`` of each technique, with
the finding's confidence. There is no ``indicator``: a disagreement in one machine's memory is no pattern to look for
in others.

Ids are UUIDs of version 5, made of what the object says: equal bundles for equal documents. ``created`` is the time at
which the memory was taken, or the kernel crashed; a clock of ours would be different at each run. Where the image does
not tell that time, there is no ``observed-data``, which needs one.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vmaforensics.report.document.json_text import json_text
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.findings import Finding, Technique
    from vmaforensics.report.document.parts import Process

Object = dict[str, object]

_OWN = uuid.UUID("5f0e0a36-9a0c-5d2b-8a44-0b7a6c1d7f10")  # namespace of our ids
# That of the ids of observables that are made of their contributing properties (STIX 2.1, section 2.9).
_OBSERVABLES = uuid.UUID("00abedb4-aa42-466c-9c01-fed23315a9b7")
_FIXED = "2026-01-01T00:00:00.000Z"  # when objects were made that are the same in every bundle
_CONFIDENCE = {"high": 85, "medium": 50, "low": 15}  # STIX 2.1, appendix A, scale None/Low/Med/High
_SIGHTED = ("critical", "high", "medium")


def render_stix(document: Document) -> bytes:
    """The bundle, as one line of JSON."""
    objects = list({entry["id"]: entry for entry in _objects(document)}.values())
    name = "\n".join(str(entry["id"]) for entry in objects)
    bundle = {"type": "bundle", "id": f"bundle--{uuid.uuid5(_OWN, name)}", "objects": objects}
    return json_text(bundle) + b"\n"


def _objects(document: Document) -> Iterator[Object]:
    """The objects of the bundle, each after those it refers to; findings of severity info have none.

    An observed-data or sighting needs the time of the image; where that is not known there is none.
    """
    maker = _fixed("identity", "vmaforensics", name="vmaforensics", identity_class="system")
    yield maker
    taken = _time(document.kernel.crashed) or _time(document.kernel.clock)
    owners = {process.mm: process for process in reversed(document.processes) if process.mm is not None}
    for finding in document.findings:
        if finding.severity == "info":
            continue
        observables = list(_observables(finding, owners.get(finding.mm)))
        yield from observables
        refs = [str(entry["id"]) for entry in observables]
        common: Object = {"created_by_ref": maker["id"], "created": taken or _FIXED, "modified": taken or _FIXED}
        observed = None
        if taken is not None:
            observed = _own(
                "observed-data",
                **common,
                first_observed=taken,
                last_observed=taken,
                number_observed=1,
                object_refs=refs,
            )
            yield observed
        patterns = [_pattern(technique) for technique in finding.attack]
        yield from patterns
        about = ([str(observed["id"])] if observed else refs) + [str(pattern["id"]) for pattern in patterns]
        yield _note(document, finding, common, about)
        if observed and finding.severity in _SIGHTED:
            for pattern in patterns:
                yield _own(
                    "sighting",
                    **common,
                    confidence=_CONFIDENCE[finding.confidence],
                    description="Consistent with this technique, which is no proof of it.",
                    first_seen=taken,
                    last_seen=taken,
                    count=1,
                    sighting_of_ref=pattern["id"],
                    observed_data_refs=[observed["id"]],
                )


def _observables(finding: Finding, process: Process | None) -> Iterator[Object]:
    """The process last, behind the file it runs; between them the file that is mapped at the finding's start."""
    who: Object = {"type": "process", "spec_version": "2.1", "pid": finding.pid}
    if process is not None:
        started = _time(process.started)
        if started is not None:
            who["created_time"] = started
        if process.exe:
            program = list(_file(process.exe))
            yield from program
            who["image_ref"] = program[-1]["id"]
        for region in process.regions:
            if region.start == finding.start and region.kind == "file" and region.name:
                yield from _file(region.name)
                break
    # A process has no contributing properties, and its id must be of version 4 (STIX 2.1, section 6.13). In place
    # of random bits stand those of a hash of what tells it from others.
    key = f"{process.task if process else ''}:{finding.mm}:{json.dumps(who, sort_keys=True)}"
    yield {"id": f"process--{uuid.UUID(bytes=uuid.uuid5(_OWN, key).bytes, version=4)}", **who}


def _file(path: str) -> Iterator[Object]:
    """The file's directory, where it has one, then the file."""
    folder, slash, name = printable(path).rpartition("/")
    properties: Object = {"name": name or printable(path)}
    if slash and path.startswith("/") and name:
        directory = _observable("directory", path=folder or "/")
        yield directory
        properties["parent_directory_ref"] = directory["id"]
    yield _observable("file", **properties)


def _observable(kind: str, **properties: object) -> Object:
    """An observable, all of whose properties contribute to its id (RFC 8785: sorted, without blanks)."""
    name = json.dumps(properties, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {"type": kind, "spec_version": "2.1", "id": f"{kind}--{uuid.uuid5(_OBSERVABLES, name)}", **properties}


def _pattern(technique: Technique) -> Object:
    reference = {
        "source_name": "mitre-attack",
        "external_id": technique.id,
        "url": f"https://attack.mitre.org/techniques/{technique.id.replace('.', '/')}",
    }
    return _fixed("attack-pattern", technique.id, name=technique.name, external_references=[reference])


def _note(document: Document, finding: Finding, common: Object, about: list[str]) -> Object:
    """The note (STIX 2.1, section 4.10) that tells a finding in words, about the objects ``about``."""
    kernel, file = document.kernel, document.provenance.file
    where = "" if finding.start is None else f" at {finding.start}-{finding.end}"
    lines = [
        f"{finding.severity}: {finding.title}, pid {finding.pid} ({finding.comm}){where}.",
        f"Rule {finding.rule}, finding {finding.id}, in {file.path}"
        + (f" (SHA-256 {file.sha256})" if file.sha256 else "")
        + f", Linux {kernel.release}{f' of {kernel.hostname}' if kernel.hostname else ''}.",
        finding.why,
        "Evidence:",
        *(f"- {item.what} ({item.view}{f' at {item.address}' if item.address else ''})" for item in finding.evidence),
        "Innocent causes:",
        *(f"- {cause}" for cause in finding.benign_causes),
    ]
    return _own(
        "note",
        **common,
        abstract=finding.rule_title,
        content="\n".join(printable(line) for line in lines),
        confidence=_CONFIDENCE[finding.confidence],
        labels=[f"severity-{finding.severity}"],
        object_refs=about,
    )


def _own(kind: str, **properties: object) -> Object:
    """An object whose id is made of all it says: never two versions under one id."""
    name = json.dumps([kind, properties], sort_keys=True)
    return {"type": kind, "spec_version": "2.1", "id": f"{kind}--{uuid.uuid5(_OWN, name)}", **_inert(properties)}


def _fixed(kind: str, key: str, **properties: object) -> Object:
    """An object that is the same in every bundle that has it."""
    name = f"{kind}:{key}"
    times = {"created": _FIXED, "modified": _FIXED}
    return {
        "type": kind,
        "spec_version": "2.1",
        "id": f"{kind}--{uuid.uuid5(_OWN, name)}",
        **times,
        **_inert(properties),
    }


def _inert(properties: Object) -> Object:
    return {
        name: printable(value) if isinstance(value, str) and name != "content" else value
        for name, value in properties.items()
    }


def _time(text: str | None) -> str | None:
    """A STIX timestamp; None for what is no time."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
