"""What other programs take in: JSON lines, Timesketch, the ATT&CK Navigator, STIX; by their own rules."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest
import stix2

from vmaforensics.errors import UsageError
from vmaforensics.report.document.attack import TECHNIQUES
from vmaforensics.report.formats.jsonl import render_jsonl
from vmaforensics.report.formats.navigator import render_navigator
from vmaforensics.report.formats.stix import render_stix
from vmaforensics.report.formats.timesketch import render_timesketch

from .hostile import handmade, planted_document, tampered_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.report.document.document import Document

BOOTED, STARTED, CLOCK, CRASHED = (f"2026-11-22T21:0{at}:00Z" for at in range(4))


@cache
def timed(name: str = "plain", crashed: bool = False) -> Document:
    """A document whose image tells every time."""
    made: dict[str, Callable[[], Document]] = {
        "plain": tampered_document,
        "planted": planted_document,
        "handmade": lambda: handmade(tampered_document()),
    }
    document = made[name]()
    kernel = msgspec.structs.replace(document.kernel, booted=BOOTED, clock=CLOCK, crashed=CRASHED if crashed else None)
    processes = [msgspec.structs.replace(process, started=STARTED) for process in document.processes]
    return msgspec.structs.replace(document, kernel=kernel, processes=processes)


@pytest.fixture(params=["plain", "planted", "handmade"])
def document(request: pytest.FixtureRequest) -> Document:
    name: str = request.param
    return timed(name)


def lines(raw: bytes) -> list[dict[str, Any]]:
    assert raw.endswith(b"\n")
    return [json.loads(line) for line in raw.split(b"\n")[:-1]]


# JSON lines -------------------------------------------------------------------------------------------------


def test_each_line_can_be_understood_alone(document: Document) -> None:
    rows = lines(render_jsonl(document))
    assert [row["kind"] for row in rows] == [
        "report",
        *["finding"] * len(document.findings),
        *["not_assessed"] * len(document.not_assessed),
    ]
    for row in rows:
        assert row["image"]["size"] == document.provenance.file.size
        assert row["kernel"]["build_id"] == document.kernel.build_id
        assert row["kernel"]["booted"] == BOOTED
    written = {"DENTRY-NAME"}  # names that the planted image has had written over
    assert sum(row["severity"] == "high" and row["rule"] not in written for row in rows[1:] if "rule" in row) == 1
    assert rows[0]["findings"]["high"] == sum(finding.severity == "high" for finding in document.findings)
    assert rows[0]["not_assessed"] == len(document.not_assessed)


def test_a_finding_line_holds_the_whole_finding() -> None:
    document = timed()
    for row, finding in zip(lines(render_jsonl(document))[1:], document.findings, strict=False):
        whole = json.loads(msgspec.json.encode(finding))
        assert {key: row[key] for key in whole} == whole


# Timesketch -------------------------------------------------------------------------------------------------


def test_rows_hold_to_the_rules_of_the_importer(document: Document) -> None:
    """Those of read_and_validate_jsonl in timesketch/lib/utils.py, and the limit of a keyword field."""
    for row in lines(render_timesketch(document)):
        assert {"message", "datetime", "timestamp_desc"} <= row.keys()
        moment = datetime.fromisoformat(row["datetime"])
        assert moment.utcoffset() is not None
        assert row["timestamp"] == int(moment.timestamp() * 1_000_000)
        assert all(re.fullmatch(r"[a-z_0-9]+", key) for key in row)
        assert all(len(value.encode()) < 32766 for value in row.values() if isinstance(value, str))
        assert None not in row.values()


@pytest.mark.parametrize(
    ("crashed", "when", "what"), [(False, CLOCK, "Memory Acquired"), (True, CRASHED, "Kernel Crash")]
)
def test_every_time_is_one_the_image_tells(crashed: bool, when: str, what: str) -> None:
    document = timed(crashed=crashed)
    rows = lines(render_timesketch(document))
    assert [row["datetime"] for row in rows] == sorted(row["datetime"] for row in rows)
    by_kind: dict[str, set[str]] = {}
    for row in rows:
        by_kind.setdefault(row["timestamp_desc"], set()).add(row["datetime"].replace("+00:00", "Z"))
    assert by_kind == {"System Boot": {BOOTED}, "Process Start": {STARTED}, what: {when}}
    found = [row for row in rows if "finding_id" in row]
    assert {row["finding_id"] for row in found} == {finding.id for finding in document.findings}
    assert {row["timestamp_desc"] for row in found} == {what}


def test_without_a_time_there_is_no_row_and_no_invention() -> None:
    document = timed()
    kernel = msgspec.structs.replace(document.kernel, clock=None)
    rows = lines(render_timesketch(msgspec.structs.replace(document, kernel=kernel)))
    assert {row["timestamp_desc"] for row in rows} == {"System Boot", "Process Start"}
    kernel = msgspec.structs.replace(kernel, booted=None)
    with pytest.raises(UsageError, match="no timeline can be made"):
        render_timesketch(msgspec.structs.replace(document, kernel=kernel, processes=[]))


# ATT&CK Navigator -------------------------------------------------------------------------------------------

# LAYERFORMATv4_5.md of mitre-attack/attack-navigator, its tables as a schema: names, types, what is required.
_PAIR = {"type": "object", "additionalProperties": False}
_TEXTS = {"name": {"type": "string"}, "value": {"type": "string"}}
_NAMED = {**_PAIR, "required": ["name", "value"], "properties": _TEXTS}
_COLOR = {"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"}
LAYER = {
    **_PAIR,
    "required": ["name", "domain"],
    "properties": {
        "name": {"type": "string"},
        "versions": {
            **_PAIR,
            "required": ["navigator", "layer"],
            "properties": {
                "attack": {"type": "string"},
                "navigator": {"type": "string", "pattern": r"^(4\.9|4\.\d\d|[5-9])\."},
                "layer": {"const": "4.5"},
            },
        },
        "domain": {"enum": ["enterprise-attack", "mobile-attack", "ics-attack"]},
        "description": {"type": "string"},
        "filters": {**_PAIR, "properties": {"platforms": {"type": "array", "items": {"enum": ["Linux"]}}}},
        "sorting": {"enum": [0, 1, 2, 3]},
        "layout": {
            **_PAIR,
            "properties": {
                "layout": {"enum": ["side", "flat", "mini"]},
                "showID": {"type": "boolean"},
                "showName": {"type": "boolean"},
                "expandedSubtechniques": {"enum": ["none", "all", "annotated"]},
            },
        },
        "hideDisabled": {"type": "boolean"},
        "techniques": {
            "type": "array",
            "items": {
                **_PAIR,
                "required": ["techniqueID"],
                "properties": {
                    "techniqueID": {"type": "string", "pattern": r"^T\d{4}(\.\d{3})?$"},
                    "score": {"type": "number"},
                    "comment": {"type": "string"},
                    "enabled": {"type": "boolean"},
                    "metadata": {"type": "array", "items": _NAMED},
                },
            },
        },
        "gradient": {
            **_PAIR,
            "required": ["colors", "minValue", "maxValue"],
            "properties": {
                "colors": {"type": "array", "items": _COLOR, "minItems": 2},
                "minValue": {"type": "number"},
                "maxValue": {"type": "number"},
            },
        },
        "legendItems": {
            "type": "array",
            "items": {
                **_PAIR,
                "required": ["label", "color"],
                "properties": {"label": {"type": "string"}, "color": _COLOR},
            },
        },
        "metadata": {"type": "array", "items": _NAMED},
    },
}


def test_the_layer_fits_the_format_definition(document: Document) -> None:
    (layer,) = lines(render_navigator(document))
    jsonschema.Draft202012Validator(LAYER).validate(layer)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(LAYER).validate({**layer, "score": 1})


def test_mitres_own_reader_takes_the_layer(document: Document) -> None:
    layers = pytest.importorskip("mitreattack.navlayers")
    layer = layers.Layer(init_data=lines(render_navigator(document))[0], strict=True)
    assert len(layer.layer.techniques) == len({item.id for finding in document.findings for item in finding.attack})


def test_a_technique_has_the_score_of_its_worst_finding_and_names_it() -> None:
    document = timed()
    (layer,) = lines(render_navigator(document))
    techniques = {one["techniqueID"]: one for one in layer["techniques"]}
    assert techniques.keys() == {item.id for finding in document.findings for item in finding.attack}
    worst = next(finding for finding in document.findings if finding.severity == "high")
    for item in worst.attack:
        assert techniques[item.id]["score"] == 75
        assert worst.id in techniques[item.id]["comment"]
        assert {"name": "technique", "value": TECHNIQUES[item.id]} in techniques[item.id]["metadata"]


# STIX -------------------------------------------------------------------------------------------------------


def bundle(document: Document) -> Any:  # noqa: ANN401
    return stix2.parse(render_stix(document).decode(), allow_custom=False)


def test_the_bundle_is_stix_2_1(document: Document) -> None:
    found = bundle(document)
    kinds = {entry.type for entry in found.objects}
    assert kinds >= {"identity", "process", "observed-data", "attack-pattern", "note", "sighting"}
    assert "indicator" not in kinds
    known = {entry.id for entry in found.objects}
    assert len(known) == len(found.objects)
    for entry in found.objects:
        for name, value in entry.items():
            if name.endswith("_ref"):
                assert value in known
            elif name.endswith("_refs"):
                assert set(value) <= known


def test_the_validator_of_oasis_takes_the_bundle(document: Document) -> None:
    validator = pytest.importorskip("stix2validator")
    assert validator.validate_string(render_stix(document).decode()).is_valid


def test_ids_of_observables_are_those_of_the_specification(document: Document) -> None:
    for entry in bundle(document).objects:
        given = {name: value for name, value in entry.items() if name not in ("id", "type", "spec_version")}
        if entry.type == "file":
            assert stix2.File(**given).id == entry.id
        elif entry.type == "directory":
            assert stix2.Directory(**given).id == entry.id


def test_a_serious_finding_is_noted_with_its_evidence_and_sighted() -> None:
    document = timed()
    found = bundle(document)
    worst = next(finding for finding in document.findings if finding.severity == "high")
    (note,) = (entry for entry in found.objects if entry.type == "note" and worst.id in entry.content)
    assert all(item.what in note.content for item in worst.evidence)
    assert note.confidence == 85
    seen = {entry.sighting_of_ref for entry in found.objects if entry.type == "sighting"}
    names = {entry.external_references[0].external_id for entry in found.objects if entry.id in seen}
    assert names >= {item.id for item in worst.attack}
    observed = next(entry for entry in found.objects if entry.type == "observed-data")
    assert str(observed.first_observed) == "2026-11-22 21:02:00+00:00"
    process = next(entry for entry in found.objects if entry.type == "process")
    assert process.pid == worst.pid


def test_information_is_no_threat_intelligence() -> None:
    document = timed()
    minor = msgspec.structs.replace(
        document, findings=[finding for finding in document.findings if finding.severity == "info"]
    )
    assert [entry.type for entry in bundle(minor).objects] == ["identity"]


def test_without_a_time_nothing_is_said_to_have_been_observed_at_one() -> None:
    document = timed()
    kernel = msgspec.structs.replace(document.kernel, clock=None)
    kinds = {entry.type for entry in bundle(msgspec.structs.replace(document, kernel=kernel)).objects}
    assert "note" in kinds
    assert not kinds & {"observed-data", "sighting"}


def test_ids_change_with_what_is_said_and_with_nothing_else() -> None:
    document = timed()
    again = {entry.id: entry for entry in bundle(timed()).objects}
    assert {entry.id for entry in bundle(document).objects} == set(again)
    other = [msgspec.structs.replace(finding, title="other") for finding in document.findings]
    changed = {entry.id: entry for entry in bundle(msgspec.structs.replace(document, findings=other)).objects}
    for same in changed.keys() & again.keys():
        assert changed[same] == again[same]
    assert {finding.type for name, finding in again.items() if name not in changed} == {"note"}
