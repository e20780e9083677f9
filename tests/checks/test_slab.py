"""VMAs and processes that only the allocator, the pid index or the page directories still know are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import Edit, Sample, findings_of, kernel_on
from tamper.edits import Label, executable_file, labelled, pick
from tamper.slab_edits import (
    LIST_SLAB_EDITS,
    MAPLE_SLAB_EDITS,
    TASK_EDITS,
    memory_lent_to_kernel_thread,
    mm_cleared,
    mm_decoy,
    root_exchanged,
    slot_zeroed_repaired,
)

from vmaforensics.checks.context import Context
from vmaforensics.checks.finding import Severity
from vmaforensics.views.gather import gather_views
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.mm_sources import Source, gather_sources
from vmaforensics.views.processes.mms import Mms, read_mms
from vmaforensics.views.processes.tasks import walk_tasks
from vmaforensics.views.slab.objects import gather_slab
from vmaforensics.views.view import View
from vmaforensics.views.views import Views

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.checks.finding import Finding

_AREA_EDITS = MAPLE_SLAB_EDITS + LIST_SLAB_EDITS


def _copy(sample: Sample) -> Edit:
    sources = sample.analysis.views.sources
    if sample.analysis.views.slab is None or sources is None or not sources.whole & Source.PID_INDEX:
        pytest.skip("this excerpt was made before slab pages were read")
    return Edit(sample.analysis)


def _found(copy: Edit) -> list[Finding]:
    """What the two checks say of the edited memory."""
    context = Context(gather_views(kernel_on(copy.kernel, copy.overlay)))
    return findings_of(context, "slab", "processes")


def _told_of_tasks(copy: Edit) -> list[Finding]:
    """What the rules on processes say of the edited memory, without reading any VMA."""
    kernel, log = kernel_on(copy.kernel, copy.overlay), ProblemLog()
    tasks = walk_tasks(kernel, log)
    views = Views(tasks=tasks, mms=read_mms(kernel, tasks, log))
    views.slab = gather_slab(kernel, log)
    views.sources = gather_sources(kernel, tasks, views.slab, log)
    views.mms = Mms.concatenate([views.mms, views.sources.hidden()])
    views.mms = views.mms.sort_by(views.mms.mm)
    views.problems = log.table()
    return findings_of(Context(views), "processes")


def test_clean_images_have_no_such_finding(whole_kernel: Sample) -> None:
    context = Context(whole_kernel.analysis.views)
    assert [finding.title for finding in findings_of(context, "slab", "processes")] == []


@pytest.mark.parametrize(("edit", "rule"), _AREA_EDITS, ids=lambda one: getattr(one, "__name__", one))
def test_a_hidden_vma_is_found(whole_kernel: Sample, edit: Callable[[Edit], Label], rule: str) -> None:
    copy = _copy(whole_kernel)
    maple = whole_kernel.analysis.views.maple is not None
    if maple != ((edit, rule) in MAPLE_SLAB_EDITS):
        pytest.skip("an edit of the other kind of index")
    label = edit(copy)
    hits = [item for item in _found(copy) if item.rule.id == rule]
    assert [(finding.severity, finding.pid, finding.start, finding.end) for finding in hits] == [
        (Severity.HIGH, label.pid, label.start, label.end)
    ]


@pytest.mark.parametrize(("edit", "rule"), TASK_EDITS, ids=lambda one: getattr(one, "__name__", one))
def test_a_hidden_process_is_found(whole_kernel: Sample, edit: Callable[[Edit], Label], rule: str) -> None:
    copy = _copy(whole_kernel)
    label = edit(copy)
    told = [finding for finding in _told_of_tasks(copy) if finding.severity.rank <= Severity.MEDIUM.rank]
    hits = [(finding.rule.id, finding.severity, finding.pid) for finding in told]
    assert hits == [(rule, Severity.HIGH, label.pid)]


def test_memory_that_nobody_owns_is_that_of_the_task_that_ran_in_it(whole_kernel: Sample) -> None:
    copy = _copy(whole_kernel)
    label = mm_cleared(copy, repaired=True)
    (found,) = [finding for finding in _told_of_tasks(copy) if finding.severity.rank <= Severity.MEDIUM.rank]
    assert (found.rule.id, found.severity, found.pid) == ("MM-HIDDEN", Severity.HIGH, label.pid)


def test_memory_lent_to_a_kernel_thread_ranks_low(whole_kernel: Sample) -> None:
    """It stays its owner's, as with kthread_use_mm."""
    copy = _copy(whole_kernel)
    label = memory_lent_to_kernel_thread(copy)
    told = [(finding.rule.id, finding.severity, finding.pid) for finding in _told_of_tasks(copy)]
    assert told == [("TASK-KTHREAD-MM", Severity.LOW, label.pid)]


def test_a_tree_exchanged_for_a_copy_is_found(whole_kernel: Sample) -> None:
    if whole_kernel.analysis.views.maple is None:
        pytest.skip("this kernel has no maple tree")
    copy = _copy(whole_kernel)
    label = root_exchanged(copy)
    hits = [finding for finding in copy.again().findings if finding.severity.rank <= Severity.MEDIUM.rank]
    # The old root says that it is the tree's; the new one lies where no maple node lives.
    assert sorted((finding.rule.id, finding.severity, finding.pid) for finding in hits) == [
        ("MT-ROOT", Severity.HIGH, label.pid),
        ("VMA-LINK", Severity.HIGH, label.pid),
    ]


def test_the_memory_map_of_a_hidden_process_is_read_all_the_same(either_sample: Sample) -> None:
    copy = _copy(either_sample)
    label = mm_decoy(copy)
    views = gather_views(kernel_on(copy.kernel, copy.overlay))
    assert views.mms.mm.tolist() == copy.views.mms.mm.tolist()
    assert len(views.vmas) == len(copy.views.vmas)
    assert label.pid in views.mms.pid.tolist()


def test_one_finding_tells_of_one_vma(maple_sample: Sample) -> None:
    """The counters miss a VMA, the slab has it: the finding carries both, and the VMA's own bounds."""
    copy = _copy(maple_sample)
    row = pick(copy, View.MAPLE, executable_file)
    copy.put(int(row.slot), 0)
    label = labelled(copy, "slot zeroed", row)
    mine = [
        finding for finding in copy.again().findings if finding.pid == label.pid and finding.severity is Severity.HIGH
    ]
    assert [(one.start, one.end) for one in mine] == [(label.start, label.end)]
    assert {View.SLAB.label, View.COUNTERS.label} <= {item.view for item in mine[0].evidence}


def test_a_lock_word_alone_excuses_nothing(maple_sample: Sample) -> None:
    copy = _copy(maple_sample)
    label = slot_zeroed_repaired(copy)
    mm = int(copy.views.mms.mm[copy.views.mms.pid == label.pid][0])
    if not copy.kernel.has("mm_struct", "mmap_lock.count.counter"):
        pytest.skip("the lock is another kind")
    copy.put(copy.at("mm_struct", mm, "mmap_lock.count.counter"), 1)
    told = [finding for finding in copy.again().findings if finding.pid == label.pid and finding.start == label.start]
    assert told
    # No task is in the middle of a change of this map.
    assert any(finding.severity.rank < Severity.LOW.rank for finding in told)
