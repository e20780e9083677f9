"""Who knows of a process: every record agrees on a clean image, and each is read without the others."""

from __future__ import annotations

import numpy as np
import pytest
from support import Edit, Sample, kernel_on, mm_of

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mm_lists import on_lru_lists, on_pgd_list
from vmaforensics.views.processes.mm_sources import Source, SourcesView
from vmaforensics.views.processes.pid_idr import tasks_by_pid


def _sources(sample: Sample) -> SourcesView:
    sources = sample.analysis.views.sources
    if sources is None or not sources.whole & Source.PID_INDEX:
        pytest.skip("this excerpt was made before the pid index was read")
    return sources


def test_every_record_knows_of_every_process(whole_kernel: Sample) -> None:
    sources = _sources(whole_kernel)
    both = np.uint16(Source.TASK_LIST | Source.PID_INDEX | Source.SLAB)
    assert (sources.task_sources[sources.tasks.pid > 0] & both == both).all()
    wanted = Source.TASK_LIST | Source.PID_INDEX | Source.SLAB | Source.PGD_LIST
    if whole_kernel.analysis.views.maple is not None:
        wanted |= Source.TREE_ROOT | Source.LRU_GEN
    mine = sources.mm_sources[~sources.kernel_own]
    assert (mine == np.uint16(wanted)).all()
    assert sources.kernel_own.sum() == 1
    assert not len(sources.hidden())
    assert sources.roots.current.all()


def test_the_pid_index_has_every_thread_of_the_guest(whole_kernel: Sample) -> None:
    _sources(whole_kernel)
    views, truth = whole_kernel.analysis.views, whole_kernel.truth
    found = tasks_by_pid(whole_kernel.analysis.kernel, ProblemLog())
    assert found is not None
    assert found[1]
    sources = views.sources
    assert sources is not None
    pids = set(sources.tasks.pid[sources.task_rows(found[0])].tolist())
    assert set(truth.pids()) <= pids


def test_lists_are_read_without_knowing_what_is_on_them(whole_kernel: Sample) -> None:
    """With one address space to start from, or none, the lists lead to all others."""
    sources, kernel = _sources(whole_kernel), whole_kernel.analysis.kernel
    mms = sources.mms.mm[~sources.kernel_own]
    found = on_pgd_list(kernel, mms[:0], ProblemLog())
    assert found is not None
    assert set(mms.tolist()) <= set(found[0].tolist())
    lists = on_lru_lists(kernel, mms, ProblemLog())
    if lists is not None:
        assert lists[0].tolist() == mms.tolist()


def test_an_mm_off_the_pgd_list_is_not_on_it(whole_kernel: Sample) -> None:
    sources, kernel = _sources(whole_kernel), whole_kernel.analysis.kernel
    mm = mm_of(whole_kernel.analysis, 1)
    struct, link = ("ptdesc", "pt_list") if kernel.has("ptdesc", "pt_list") else ("page", "lru")
    edit = Edit(whole_kernel.analysis)
    head = kernel.symbols.get("pgd_list")
    assert head is not None
    at, owner = edit.get(head), 0
    for _ in range(len(sources.mms) + 1):
        owner = edit.get(edit.at(struct, at - kernel.offset(struct, link), "pt_mm"))
        if owner == mm:
            break
        at = edit.get(at)
    assert owner == mm
    after, before = edit.get(at), edit.get(at + 8)
    edit.put(before, after)
    edit.put(after + 8, before)
    found = on_pgd_list(kernel_on(kernel, edit.overlay), sources.mms.mm, ProblemLog())
    assert found is not None
    assert mm not in found[0].tolist()
    assert len(found[0]) == len(sources.mms) - 1


def test_an_index_of_pids_that_leads_back_ends(whole_kernel: Sample) -> None:
    _sources(whole_kernel)
    kernel = whole_kernel.analysis.kernel
    edit = Edit(whole_kernel.analysis)
    at = kernel.symbols.get("init_pid_ns")
    assert at is not None
    head = edit.get(edit.at("pid_namespace", at, "idr.idr_rt.xa_head"))
    assert head & 3 == 2
    edit.put(edit.at("xa_node", head - 2, "slots"), head)
    log = ProblemLog()
    found = tasks_by_pid(kernel_on(kernel, edit.overlay), log)
    assert found is not None
    assert not found[1]
    assert (log.table().problem == Problem.CYCLE).any()
    assert kernel.arch.kernel_pointer(found[0]).all()
