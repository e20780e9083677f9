"""Memory kept without being mapped, attach counts, and executable VMAs without a file on a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import again_from_views
from tamper import anchor_edits as edits

from checks.test_anchors import by_rule, copy_of, everything, new, reread
from vmaforensics.checks.finding import Severity
from vmaforensics.report.document.not_assessed import not_assessed

if TYPE_CHECKING:
    from support import Sample


def test_program_code_in_an_unmapped_memory_file_names_who_keeps_it(sample: Sample) -> None:
    copy = copy_of(sample)
    label = edits.code_in_memory_file(copy)
    found = by_rule(reread(copy)[1], "MEM-UNMAPPED-CODE")
    assert [(item.pid, item.severity) for item in found] == [(label.pid, Severity.MEDIUM)]
    assert f"process {label.pid} keeps it" in found[0].evidence[1].what


def test_a_memfd_with_code_is_found_by_its_descriptor_alone(sample: Sample) -> None:
    copy = copy_of(sample)
    label = edits.memfd_kept(copy)
    found = [finding for finding in new(copy, everything(copy)) if finding.severity.rank <= label.rank.rank]
    assert [(item.rule.id, item.pid, item.severity) for item in found] == [
        ("MEM-UNMAPPED-CODE", label.pid, Severity.MEDIUM)
    ]
    assert "memfd:x that no VMA maps, kept by descriptor" in found[0].title


def test_code_that_cannot_be_read_is_not_assessed(sample: Sample) -> None:
    copy = copy_of(sample)
    edits.memfd_kept(copy)
    files = edits.handles_of(copy).memory_files
    for pa in files.pa[files.pa != 0].tolist():
        copy.overlay.drop(int(pa) >> 12)
    found = again_from_views(sample.analysis, copy.overlay)
    assert by_rule(found.findings, "MEM-UNMAPPED-CODE") == []
    (said,) = [item for item in not_assessed(found) if "MEM-UNMAPPED-CODE" in item.what]
    assert (said.count, said.why) == (1, "1 file: their first page is not in the image")


def test_an_anonymous_vma_made_executable_as_mprotect_does_ranks_low(sample: Sample) -> None:
    copy = copy_of(sample)
    label = edits.area_made_executable_whole(copy)
    found = new(copy, everything(copy))
    assert [(item.rule.id, item.pid, item.severity) for item in found] == [("VMA-EXEC-ANON", label.pid, Severity.LOW)]


def test_a_hidden_vma_of_a_segment_is_told_once_and_of_its_process(sample: Sample) -> None:
    if sample.analysis.views.maple is None:
        pytest.skip("an edit of the maple tree")
    copy = copy_of(sample)
    label = edits.segment_hidden(copy)
    found = [finding for finding in everything(copy) if finding.severity.rank <= Severity.HIGH.rank]
    assert [(item.pid, item.start, item.end) for item in found] == [(label.pid, label.start, label.end)]
    assert any("shm_nattch" in item.what for item in found[0].evidence)


def test_no_content_is_no_code(sample: Sample) -> None:
    copy = copy_of(sample)
    edits.code_in_memory_file(copy)
    files = edits.handles_of(copy).memory_files
    for pa in files.pa[files.pa != 0].tolist():
        copy.overlay.drop(int(pa) >> 12)
    assert by_rule(reread(copy)[1], "MEM-UNMAPPED-CODE") == []


def test_attach_counts_are_no_evidence_while_vmas_are_missing_from_the_dump(either_sample: Sample) -> None:
    copy = copy_of(either_sample)
    edits.attach_count_raised(copy)
    copy.drop(int(copy.views.vmas.vma[0]))
    assert by_rule(everything(copy), "SHM-ATTACH-COUNT") == []


def test_executable_memory_of_the_guest_is_told_and_ranks_low(sample: Sample) -> None:
    found = by_rule(sample.analysis.findings, "VMA-EXEC-ANON")
    assert {item.comm for item in found} == {b"awk-areas"}
    assert all(item.severity is Severity.LOW for item in found)
    gone = by_rule(sample.analysis.findings, "VMA-EXEC-DELETED")
    assert {one.comm for one in gone} == {b"awk-gone"}


def test_a_vma_made_executable_is_told(either_sample: Sample) -> None:
    copy = copy_of(either_sample)
    label = edits.area_made_executable(copy)
    found = [finding for finding in new(copy, everything(copy)) if finding.rule.id == "VMA-EXEC-ANON"]
    assert [item.pid for item in found] == [label.pid]
