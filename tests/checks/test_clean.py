from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support import WHOLE, serious

from vmaforensics.report.document.build import build_document

if TYPE_CHECKING:
    from support import Sample


# Rules that tell what is so, and no disagreement: each with what the guest's own maps must then show. The last
# letter of the permissions and the name decide.
FACTS = {
    "VMA-EXEC-ANON": rb"..x[ps] 00000000 00:00 0 *(\[anon:.*\]|\[heap\]|\[stack\])?",
    "VMA-EXEC-DELETED": rb"..x[ps] .* /.* \(deleted\)",
    "VMA-EXEC-MEMFD": rb"..x[ps] .* /(memfd:.*|SYSV.*|dev/zero) \(deleted\)",
}


# Rules that look into user memory, which excerpts and filtered dumps do not hold.
CONTENTS = {
    "modified code (TEXT-MODIFIED)",
    "code in frames that nobody accounts for (FRAME-UNOWNED)",
    "the kernel's own vDSO (VDSO-IMAGE)",
    "kernel code (TEXT-PATCHED)",
    "where kernel code goes on (TEXT-PATCHED)",
    "tables of functions (PROC-OPS, KERNEL-TABLE, VMA-OPS)",
    "executable kernel memory (CODE-FOREIGN)",
    "contents of anonymous pages that nobody maps (FRAME-HELD)",
    "code in buffers and in vmalloc (FRAME-HELD)",
    "reserved frames (FRAME-RESERVED)",  # excerpts made before the zones of the allocator were read lack them
}


def test_a_clean_kernel_gives_no_finding_above_low(any_kernel: Sample) -> None:
    assert [finding for finding in serious(any_kernel.analysis) if finding[0] != "low"] == []


def test_no_records_of_a_clean_kernel_disagree(any_kernel: Sample) -> None:
    disagreements = [finding for finding in serious(any_kernel.analysis) if finding[1] not in FACTS]
    assert disagreements == []


def test_what_is_told_of_executable_memory_is_what_the_guest_shows(any_kernel: Sample) -> None:
    told = [finding for finding in any_kernel.analysis.findings if finding.rule.id in FACTS]
    assert {finding.rule.id for finding in told} >= {"VMA-EXEC-ANON", "VMA-EXEC-DELETED"}  # the guest has such VMAs
    for finding in told:
        assert finding.severity.value == "low"
        lines = any_kernel.truth[f"proc/{finding.pid}/maps"].split(b"\n")
        pattern = re.compile(b"[0-9a-f]+-[0-9a-f]+ " + FACTS[finding.rule.id])
        shown = {line.split(b"-")[0] for line in lines if pattern.fullmatch(line)}
        assert finding.start is not None
        assert b"%08x" % finding.start in shown
        assert len(shown) == len(finding.evidence)


def test_everything_the_report_needs_of_a_clean_kernel_can_be_read(any_kernel: Sample) -> None:
    document = build_document(any_kernel.analysis)
    handles = any_kernel.analysis.views.handles
    # Excerpts made before queues of sockets were read lack those.
    excused = (
        CONTENTS if handles is not None and handles.kept_whole and handles.held_whole else {*CONTENTS, "descriptors"}
    )
    assert [(item.what, item.why) for item in document.not_assessed if item.what not in excused] == []
    assert "agree" in document.verdict


def test_of_a_whole_image_everything_is_assessed(whole_kernel: Sample) -> None:
    if whole_kernel not in WHOLE:
        pytest.skip("an excerpt holds no user memory")
    assert [(item.what, item.why) for item in build_document(whole_kernel.analysis).not_assessed] == []


def test_counters_of_a_clean_kernel_are_the_sums_of_its_vmas(any_kernel: Sample) -> None:
    document = build_document(any_kernel.analysis)
    counters = [(process.pid, item) for process in document.processes for item in process.counters]
    assert len(counters) > 200
    # Of a process whose mmap lock was held, anything may be under way.
    busy = {process.pid for process in document.processes if process.lock != "free"}
    assert [(pid, item) for pid, item in counters if item.stored != item.areas and pid not in busy] == []


def test_every_view_of_a_clean_kernel_holds_the_same_vmas(any_kernel: Sample) -> None:
    document = build_document(any_kernel.analysis)
    for process in document.processes:
        assert all(view.complete for view in process.views)
        assert len({view.regions for view in process.views}) <= 1, process.pid
