"""Each edit of what the kernel remembers gives the finding that names it; clean images give none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, again_from_views, findings_of, kernel_on
from tamper import anchor_edits as edits

from vmaforensics.checks.context import Context
from vmaforensics.checks.finding import Severity
from vmaforensics.checks.vmas.coverage import Coverage
from vmaforensics.views.anchors.anchors import gather_anchors
from vmaforensics.views.descriptors.handles import gather_handles
from vmaforensics.views.problems import Problem, ProblemLog, Problems
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Sample
    from tamper.edits import Label

    from vmaforensics.arch.registers import CpuState
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.views import Views


def copy_of(sample: Sample) -> Edit:
    """A copy of a sample that holds what these edits change."""
    copy = Edit(sample.analysis)
    if not edits.anchors_of(copy).threads.user.any() or not edits.handles_of(copy).whole:
        pytest.skip(f"{sample.name} does not hold the kernel stacks and descriptors")
    return copy


def reread(copy: Edit, cpus: tuple[CpuState, ...] | None = None) -> tuple[Views, list[Finding]]:
    """The anchors and handles of the edited memory, and what the checks of both say. All else stays as it was."""
    kernel, log = kernel_on(copy.kernel, copy.overlay), ProblemLog()
    changed = replace(
        copy.views,
        anchors=gather_anchors(
            kernel, copy.views.tasks, copy.views.mms, copy.clean.image.cpus if cpus is None else cpus, log
        ),
        handles=gather_handles(kernel, copy.views.tasks, log),
    )
    changed.problems = Problems.concatenate([copy.views.problems, log.table()])
    context = Context(changed)
    executable = [finding for finding in findings_of(context, "vmas") if finding.rule.id.startswith("VMA-EXEC-")]
    return changed, [*findings_of(context, "anchors", "descriptors"), *executable]


def everything(copy: Edit) -> list[Finding]:
    """All findings of the edited memory."""
    return again_from_views(copy.clean, copy.overlay).findings


def by_rule(findings: list[Finding], rule: str) -> list[Finding]:
    return [finding for finding in findings if finding.rule.id == rule]


def new(copy: Edit, findings: list[Finding]) -> list[Finding]:
    before = {(finding.rule.id, finding.mm, finding.title) for finding in copy.clean.findings}
    return [finding for finding in findings if (finding.rule.id, finding.mm, finding.title) not in before]


@pytest.mark.parametrize("edit", edits.HIGH, ids=lambda edit: edit.__name__)
def test_an_edit_gives_a_finding_of_high_severity(sample: Sample, edit: Callable[[Edit], Label]) -> None:
    copy = copy_of(sample)
    label = edit(copy)
    found = [finding for finding in reread(copy)[1] if finding.severity.rank <= Severity.HIGH.rank]
    assert [item.pid for item in found] == [label.pid]
    if label.end:
        assert (found[0].start, found[0].end) == (label.start, label.end)
    assert all(item.address for item in found[0].evidence[:1])


def test_code_that_is_nowhere_is_told_among_all_checks(either_sample: Sample) -> None:
    copy = copy_of(either_sample)
    label = edits.rip_moved(copy)
    found = [finding for finding in new(copy, everything(copy)) if finding.severity.rank <= Severity.HIGH.rank]
    assert [(item.rule.id, item.pid, item.start, item.end) for item in found] == [
        ("THREAD-OUTSIDE", label.pid, label.start, label.end)
    ]


@pytest.mark.parametrize("edit", edits.HIGH_MAPLE, ids=lambda edit: edit.__name__)
def test_a_hidden_vma_is_named_by_what_it_leaves_behind(maple_sample: Sample, edit: Callable[[Edit], Label]) -> None:
    copy = copy_of(maple_sample)
    label = edit(copy)
    found = [finding for finding in new(copy, everything(copy)) if finding.severity.rank <= Severity.HIGH.rank]
    mine = [item for item in found if item.start is not None and item.end is not None and item.pid == label.pid]
    assert any(one.start < label.end and label.start < one.end for one in mine)  # type: ignore[operator]
    words = {View.ANCHORS.label, View.HANDLES.label}
    assert any(item.view in words for one in found for item in one.evidence)


def test_a_stack_pointer_outside_every_vma_is_of_medium_severity(sample: Sample) -> None:
    copy = copy_of(sample)
    label = edits.rsp_moved(copy)
    found = by_rule(reread(copy)[1], "THREAD-OUTSIDE")
    assert [(item.pid, item.start, item.end, item.severity) for item in found] == [
        (label.pid, label.start, label.end, Severity.MEDIUM)
    ]


def test_registers_are_no_evidence_while_the_index_is_not_whole(either_sample: Sample) -> None:
    copy = copy_of(either_sample)
    thread = edits.a_thread(copy)
    edits.rip_moved(copy)
    rows = copy.views.indices()[edits.index_of(copy)]
    mine = rows.vma[rows.mm == thread.mm]
    copy.drop(int(mine[len(mine) // 2]))
    assert thread.mm not in [finding.mm for finding in by_rule(everything(copy), "THREAD-OUTSIDE")]


def test_a_program_file_that_nothing_maps_and_moved_parts_are_information(sample: Sample) -> None:
    found = [
        finding
        for finding in findings_of(Context(sample.analysis.views), "anchors")
        if finding.severity is not Severity.INFO
    ]
    assert found == []


def test_page_tables_of_no_process_are_told_with_the_cpu(sample: Sample) -> None:
    copy = copy_of(sample)
    image = copy.clean.image
    if not any(cpu.table_register is not None for cpu in image.cpus):
        pytest.skip("no control registers in this image")
    pfn = int(image.memory.ranges[0, 1]) >> 13
    cpus = (replace(image.cpus[0], table_register=pfn << 12), *image.cpus[1:])
    found = by_rule(reread(copy, cpus)[1], "CPU-CR3-UNKNOWN")
    assert [item.severity for item in found] == [Severity.MEDIUM]
    assert f"CPU {image.cpus[0].cpu} " in found[0].title


def test_the_user_half_of_isolated_page_tables_is_the_same_process(sample: Sample) -> None:
    copy = copy_of(sample)
    image = copy.clean.image
    if not any(cpu.table_register is not None for cpu in image.cpus):
        pytest.skip("no control registers in this image")
    marked = tuple(
        replace(cpu, table_register=None if cpu.table_register is None else cpu.table_register | 0x1801 | 1 << 62)
        for cpu in image.cpus
    )
    assert by_rule(reread(copy, marked)[1], "CPU-CR3-UNKNOWN") == []


def test_cover_agrees_with_the_vmas_one_by_one(sample: Sample) -> None:
    views = sample.analysis.views
    cover = Coverage(Context(views))
    rows = next(iter(views.indices().values()))
    assert cover.holds(rows.mm, rows.start).all()
    assert cover.holds(rows.mm, rows.end - np.uint64(1)).all()
    last = np.flatnonzero(np.append(rows.mm[1:] != rows.mm[:-1], [True]))
    assert not cover.holds(rows.mm[last], rows.end[last]).any()
    edge = rows.end[:-1] < rows.start[1:]
    edge &= rows.mm[:-1] == rows.mm[1:]
    assert not cover.holds(rows.mm[:-1][edge], rows.end[:-1][edge]).any()
    beyond = np.full(len(rows), 2**64 - 1, np.uint64)
    assert not cover.holds(rows.mm, beyond).any()


def test_stacks_that_are_not_in_the_dump_are_problems_and_no_findings(sample: Sample) -> None:
    copy = copy_of(sample)
    threads = edits.anchors_of(copy).threads
    for address in threads.registers[threads.registers != 0].tolist():
        copy.drop(int(address))
    changed, found = reread(copy)
    assert changed.anchors is not None
    assert not changed.anchors.threads.user.any()
    rows = changed.problems.take(changed.problems.view == View.ANCHORS)
    assert (rows.problem == Problem.UNREADABLE).sum() >= len(threads)
    assert by_rule(found, "THREAD-OUTSIDE") == []
