"""SARIF 2.1.0: what the standard requires of a log, and where findings and matches of rules are in it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from vmaforensics.report.formats.sarif import render_sarif

from .example import clean, example

TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
LOCATION = {
    "type": "object",
    "properties": {
        "message": TEXT,
        "physicalLocation": {
            "type": "object",
            "required": ["address"],  # of artifactLocation and address one is (3.29.2)
            "properties": {
                "address": {
                    "type": "object",
                    "properties": {
                        "absoluteAddress": {"type": "integer", "minimum": -1},
                        "fullyQualifiedName": {"type": "string"},
                    },
                    "additionalProperties": False,
                }
            },
        },
    },
}
# SARIF 2.1.0 (OASIS, 27 March 2020), sections 3.13, 3.14, 3.19, 3.27, 3.49: what we make of it, as a schema.
LOG = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {"driver": {"type": "object", "required": ["name"]}},
                    },
                    "invocations": {
                        "type": "array",
                        "items": {"type": "object", "required": ["executionSuccessful"]},
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message"],
                            "properties": {
                                "message": TEXT,
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "kind": {"enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]},
                                "locations": {"type": "array", "items": LOCATION},
                                "relatedLocations": {"type": "array", "items": LOCATION},
                                "partialFingerprints": {
                                    "type": "object",
                                    "additionalProperties": {"type": "string"},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def run_of(raw: bytes) -> dict[str, Any]:
    log = json.loads(raw)
    jsonschema.validate(log, LOG)
    (run,) = log["runs"]
    return run  # type: ignore[no-any-return]


def test_a_log_has_a_result_for_each_finding_and_each_match_and_names_its_rule() -> None:
    document = example()
    assert document.scan is not None
    run = run_of(render_sarif(document))
    rules, results = run["tool"]["driver"]["rules"], run["results"]
    assert len(results) == len(document.findings) + len(document.scan.findings)
    assert len({rule["id"] for rule in rules}) == len(rules)
    for result in results:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        # Only a failure has a level (3.27.10).
        assert result.get("kind", "fail") == "fail" or result["level"] == "none"
    levels = {finding.severity: result["level"] for finding, result in zip(document.findings, results, strict=False)}
    assert levels == {"info": "none", "low": "note", "medium": "warning", "high": "error", "critical": "error"}


def test_a_match_says_whose_memory_it_is_in_and_where() -> None:
    document = example()
    run = run_of(render_sarif(document))
    match = next(result for result in run["results"] if result["ruleId"] == "yara/rules:planted")
    assert match["properties"]["pids"] == [100, 101]
    assert match["properties"]["hidden"] is True
    (place,) = match["locations"]
    assert place["physicalLocation"]["address"]["absoluteAddress"] == 0x7F00_0000_1010
    physical = match["relatedLocations"][-1]["physicalLocation"]["address"]["absoluteAddress"]
    assert physical == 0x1234010
    kept = next(result for result in run["results"] if result["ruleId"] == "yara/rules:kept")
    assert kept["properties"]["holders"] == ["pid 7 (sh), fd 3"]
    assert kept["locations"] == []


def test_what_was_not_assessed_is_a_notification() -> None:
    document = example()
    (invocation,) = run_of(render_sarif(document))["invocations"]
    assert len(invocation["toolExecutionNotifications"]) == len(document.not_assessed)


@pytest.mark.parametrize("times", [1, 2])
def test_a_clean_document_has_no_result_and_the_same_bytes_each_time(times: int) -> None:
    document = clean()
    assert run_of(render_sarif(document))["results"] == []
    assert len({render_sarif(document) for _ in range(times)}) == 1
