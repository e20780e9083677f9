"""Filters leave out what was asked, say so, and never leave regions without an owner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from vmaforensics.errors import UsageError
from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.selection import select

from .hostile import tampered_document, tampered_sample

if TYPE_CHECKING:
    from support import Sample


def test_processes_are_those_a_document_of_them_alone_would_hold(either_sample: Sample) -> None:
    analysis = either_sample.analysis
    whole = build_document(analysis)
    sharing = [process for process in whole.processes if process.shares_with is not None]
    assert sharing, "the guests run processes that share their memory"
    first = sharing[0]
    assert first.shares_with is not None
    for pids in ([1], [first.pid], [first.pid, first.shares_with], [1, first.pid, 2]):
        alone = build_document(analysis, pids=pids)
        chosen = select(whole, pids=pids)
        assert chosen.processes == alone.processes
        assert chosen.findings == alone.findings
    assert select(whole, pids=[first.pid]).processes[0].regions


def test_a_pid_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="no process of the image has pid 999999"):
        select(tampered_document(), pids=[1, 999999])


def test_what_a_filter_hides_is_told_so_that_the_verdict_is_no_lie() -> None:
    document = tampered_document()
    hidden = select(document, min_severity="critical")
    assert hidden.findings == []
    assert hidden.not_assessed[-1].what == "findings below critical"
    assert hidden.not_assessed[-1].count == len(document.findings)
    assert "could not be assessed" in hidden.verdict
    one_rule = select(document, rules=["VMA-MISSING"])
    assert {finding.rule for finding in one_rule.findings} == {"VMA-MISSING"}
    assert one_rule.not_assessed[-1].count == len(document.findings) - len(one_rule.findings)


def test_a_filter_that_hides_nothing_changes_nothing() -> None:
    document = tampered_document()
    rules = {finding.rule for finding in document.findings}
    assert select(document, rules=rules, min_severity="info") == document
    assert select(document) == document


def test_maps_of_findings_that_are_hidden_are_hidden_too() -> None:
    document = tampered_document()
    pid = next(finding.pid for finding in document.findings if finding.severity == "high")
    high = select(document, min_severity="high")
    assert [memory_map.pid for memory_map in document.maps] != [pid]
    assert [memory_map.pid for memory_map in high.maps] == [pid]
    assert [memory_map.pid for memory_map in select(document, pids=[pid]).maps] == [pid]
    assert select(msgspec.structs.replace(document, findings=[]), min_severity="high").maps == []


def test_maps_that_found_no_room_are_counted_among_what_is_left() -> None:
    document = msgspec.structs.replace(tampered_document(), maps=tampered_document().maps[:1], maps_left_out=2)
    assert select(document).maps_left_out == 2
    assert select(document, min_severity="high").maps_left_out == 0


def test_the_sample_is_the_tampered_one() -> None:
    assert any(finding.severity == "high" for finding in tampered_document().findings)
    assert tampered_sample().edit is not None
