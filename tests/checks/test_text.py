"""Code that differs from the page cache is found, ranked by who can have written it, and never guessed at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, again_from_views
from tamper.text_edits import PLACE, TEXT_EDITS, breakpoint_left, text_page_replaced

from vmaforensics.checks.finding import Severity
from vmaforensics.report.document.not_assessed import not_assessed
from vmaforensics.views.pages.text_match import Match
from vmaforensics.views.pages.uprobes import read_uprobes

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Sample
    from tamper.edits import Label

    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.pages.text_pages import TextView


def text_of(analysis: Analysis) -> TextView:
    assert analysis.views.text is not None
    return analysis.views.text


def told(analysis: Analysis) -> list[Finding]:
    return [finding for finding in analysis.findings if finding.rule.id == "TEXT-MODIFIED"]


def test_code_of_a_clean_kernel_is_that_of_its_files(any_kernel: Sample) -> None:
    assert text_of(any_kernel.analysis).judged > 10000
    assert told(any_kernel.analysis) == []


def test_only_pages_beside_a_uprobe_are_copies(whole_kernel: Sample) -> None:
    """The guest's tracer put a probe on one program, so each process that runs it has a copy of one page."""
    text = text_of(whole_kernel.analysis)
    rows = text.pages.take(text.pages.match == Match.DIFFERS)
    if not len(rows):
        pytest.skip("an excerpt holds no user memory")
    probes, whole = read_uprobes(whole_kernel.analysis.kernel)
    assert whole
    assert len(probes) == 1
    assert set((rows.index * 4096 + rows.first.astype(np.uint64)).tolist()) == set(probes.offset.tolist())
    assert (rows.count == 1).all()
    assert (rows.probed == 1).all()
    assert rows.now[:, 0].tolist() == [0xCC] * len(rows)


@pytest.mark.parametrize("edit", TEXT_EDITS, ids=lambda edit: edit.__name__)
def test_a_copy_with_other_bytes_is_all_that_is_found(sample: Sample, edit: Callable[[Edit], Label]) -> None:
    copy = Edit(sample.analysis)
    label = edit(copy)
    found = again_from_views(sample.analysis, copy.overlay)
    serious = [finding for finding in found.findings if finding.severity.rank <= Severity.MEDIUM.rank]
    # Where the probes are not in the image, a breakpoint may be one of them.
    unsure = edit is breakpoint_left and not text_of(found).probes_known
    assert [(finding.rule.id, finding.severity, finding.pid, finding.start, finding.end) for finding in serious] == (
        [] if unsure else [("TEXT-MODIFIED", Severity.HIGH, label.pid, label.start, label.end)]
    )
    (one,) = told(found)
    assert one.severity is (Severity.LOW if unsure else Severity.HIGH)
    assert f"{label.start + PLACE:#x}" in one.title


def test_the_evidence_names_entry_frames_and_bytes(either_sample: Sample) -> None:
    copy = Edit(either_sample.analysis)
    label = text_page_replaced(copy)
    found = again_from_views(either_sample.analysis, copy.overlay)
    (evidence,) = told(found)[0].evidence
    rows = text_of(found).pages
    row = rows.take(rows.va == np.uint64(label.start))
    assert row.match.tolist() == [Match.DIFFERS]
    view = found.views.page_tables
    assert view is not None
    assert evidence.address == int(view.ptes.where[row.pte_row[0]])
    assert f"frame {int(row.pfn[0]):#x}" in evidence.what
    assert f"frame {int(row.cached[0]):#x}" in evidence.what
    assert f"{int(row.count[0])} bytes differ, at {PLACE:#x}" in evidence.what


@pytest.mark.parametrize("which", ["pfn", "cached"])
def test_absent_contents_are_no_difference_and_not_assessed(either_sample: Sample, which: str) -> None:
    copy = Edit(either_sample.analysis)
    label = text_page_replaced(copy)
    rows = text_of(again_from_views(either_sample.analysis, copy.overlay)).pages
    row = rows.take((rows.va == np.uint64(label.start)) & (rows.match == Match.DIFFERS))
    before = sum(int(item.count) for item in not_assessed(either_sample.analysis) if "page cache, are not" in item.why)
    copy.overlay.drop(int((row.pfn if which == "pfn" else row.cached)[0]))
    found = again_from_views(either_sample.analysis, copy.overlay)
    assert told(found) == []
    (one,) = [item for item in not_assessed(found) if "page cache, are not" in item.why]
    assert one.what == "modified code (TEXT-MODIFIED)"
    # The page cache's page is that of every process with a copy of its own.
    assert one.count >= before + 1
    assert str(one.count) in one.why


def test_an_excerpt_says_once_that_contents_are_missing(sample: Sample) -> None:
    rows = text_of(sample.analysis).pages
    lost = int((rows.match == Match.NOT_IN_DUMP).sum())
    said = [item.count for item in not_assessed(sample.analysis) if "page cache, are not" in item.why]
    assert said == ([lost] if lost else [])


# Guests in which code was really changed ------------------------------------------------------------------


def _step(sample: Sample, role: str, step: str) -> tuple[int, int]:
    """(pid, address) that the guest logged for a step of a role."""
    for line in sample.truth[f"run/log/{role}"].decode().splitlines():
        word = line.split()
        if word[0] == "ok" and word[2] == step:
            return int(word[1]), int(word[3].split("-")[0], 16)
    raise AssertionError(f"the guest did not do {step}")


def test_a_breakpoint_of_a_debugger_is_told_at_low_rank(kept_guest: Sample) -> None:
    debugger, address = _step(kept_guest, "debugged", "breakpoint")
    tasks = kept_guest.analysis.views.tasks
    parent = tasks.task[tasks.pid == debugger][0]
    child = int(tasks.pid[tasks.parent == parent][0])
    (one,) = [finding for finding in told(kept_guest.analysis) if finding.pid == child]
    assert one.severity is Severity.LOW
    assert "a debugger is attached" in one.title
    assert f"code at {address:#x} " in one.title


def test_code_that_a_program_changed_itself_ranks_medium(kept_guest: Sample) -> None:
    pid, address = _step(kept_guest, "patched", "self_patched")
    (one,) = [finding for finding in told(kept_guest.analysis) if finding.pid == pid]
    assert one.severity is Severity.MEDIUM
    assert "the process had the VMA writable" in one.title
    assert f"code at {address:#x} " in one.title
    assert "c3" in one.evidence[0].what  # the byte the guest wrote


def test_no_other_code_of_these_guests_was_changed(kept_guest: Sample) -> None:
    assert len(told(kept_guest.analysis)) == 2
