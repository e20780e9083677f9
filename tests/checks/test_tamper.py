from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import Edit, again_from_views, leader
from tamper.edits import ANON_EDITS, LIST_EDITS, MAPLE_EDITS, Label, list_only, maple_slot_zeroed, tree_only
from work import analysis_budget

from vmaforensics.checks.finding import Severity
from vmaforensics.report.document.build import build_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Sample

    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import Finding

    Technique = Callable[[Edit], Label]


def serious(analysis: Analysis) -> list[Finding]:
    """Findings that are at least high."""
    return [finding for finding in analysis.findings if finding.severity.rank <= Severity.HIGH.rank]


def hits(analysis: Analysis, label: Label) -> list[Finding]:
    """Those that name the process, and a range that overlaps what was edited."""
    return [
        finding
        for finding in serious(analysis)
        if finding.pid == label.pid
        and finding.start is not None
        and finding.end is not None
        and finding.start < label.end
        and label.start < finding.end
    ]


def edited(sample: Sample, edit: Technique) -> tuple[Analysis, Label]:
    copy = Edit(sample.analysis)
    label = edit(copy)
    with analysis_budget():
        found = again_from_views(sample.analysis, copy.overlay)
    return found, label


def accuses_no_other(sample: Sample, found: Analysis, label: Label) -> None:
    """Every serious finding is about the process edited, or one that shares its memory."""
    tasks = sample.analysis.views.tasks
    mine = set(tasks.tgid[tasks.mm == leader(sample.analysis, label.pid).mm].tolist())
    assert {finding.pid for finding in serious(found)} <= mine, tell(found, label)


def tell(analysis: Analysis, label: Label) -> str:
    said = [(finding.severity.value, finding.rule.id, finding.pid, finding.title) for finding in analysis.findings]
    return f"{label}: {said}"


@pytest.mark.parametrize("edit", MAPLE_EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_an_edit_of_the_maple_tree_is_found_where_it_was_made(
    samples: list[Sample], which: str, edit: Technique
) -> None:
    kernels = [sample for sample in samples if sample.analysis.views.maple is not None]
    if not kernels:
        pytest.skip("no sample of a kernel with a maple tree")
    sample = kernels[0 if which == "oldest" else -1]
    found, label = edited(sample, edit)
    assert hits(found, label), tell(found, label)
    # Where a VMA of one process is put into another, both take part.
    if "foreign" not in label.technique:
        accuses_no_other(sample, found, label)


@pytest.mark.parametrize("edit", ANON_EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_of_the_second_offset_is_found_where_it_was_made(samples: list[Sample], edit: Technique) -> None:
    kernels = [sample for sample in samples if sample.analysis.kernel.has("vm_area_struct", "__vm_anon_pgoff_lo")]
    if not kernels:
        pytest.skip("no sample of a kernel with two offsets")
    found, label = edited(kernels[-1], edit)
    assert hits(found, label), tell(found, label)
    accuses_no_other(kernels[-1], found, label)


@pytest.mark.parametrize("edit", LIST_EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_of_the_list_or_the_tree_is_found_where_it_was_made(list_sample: Sample, edit: Technique) -> None:
    found, label = edited(list_sample, edit)
    assert hits(found, label), tell(found, label)
    accuses_no_other(list_sample, found, label)


@pytest.mark.parametrize("edit", [list_only, tree_only], ids=lambda edit: edit.__name__)
def test_repaired_counters_do_not_hide_a_vma_from_the_other_index(
    list_sample: Sample, edit: Callable[..., Label]
) -> None:
    found, label = edited(list_sample, lambda copy: edit(copy, repaired=True))
    assert hits(found, label), tell(found, label)


def test_repaired_counters_do_not_hide_an_emptied_slot(maple_sample: Sample) -> None:
    found, label = edited(maple_sample, lambda copy: maple_slot_zeroed(copy, repaired=True))
    assert hits(found, label), tell(found, label)


def test_a_finding_says_what_it_rests_on(maple_sample: Sample) -> None:
    found, label = edited(maple_sample, maple_slot_zeroed)
    for finding in build_document(found).findings:
        assert finding.evidence
        assert finding.benign_causes
        assert finding.title
        assert finding.why
        assert finding.lock in ("free", "read-held", "write-held", "unknown")
    first = hits(found, label)[0]
    assert first.rule.id == "VMA-MISSING"
    assert (first.start, first.end) == (label.start, label.end)


def test_the_bundled_edit_is_found_as_its_manifest_says(tampered: Sample) -> None:
    assert tampered.edit is not None
    label = Label(
        technique=str(tampered.edit["technique"]),
        pid=int(tampered.edit["pid"]),
        start=int(str(tampered.edit["start"]), 16),
        end=int(str(tampered.edit["end"]), 16),
    )
    assert hits(tampered.analysis, label), tell(tampered.analysis, label)
    assert {finding.pid for finding in serious(tampered.analysis)} == {label.pid}
