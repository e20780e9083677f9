"""VMA-BACKLINK on views made by hand."""

from __future__ import annotations

from checks.handmade_views import Process, add_problem, findings, mm_of, views_of
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

THREE = Process(vmas=("a000-c000 rw-p", "c000-d000 r--p", "f000-12000 rw-p"))


def test_no_finding_where_every_vma_leads_back() -> None:
    assert findings(views_of(THREE, Process(pid=101), index="list"), "VMA-BACKLINK") == []


def test_a_vm_prev_that_skips_one() -> None:
    views = views_of(THREE, Process(pid=101), index="list")
    views.vmas.prev[2] = views.vmas.vma[0]
    (found,) = findings(views, "VMA-BACKLINK")
    assert (found.mm, found.start, found.end) == (mm_of(100), 0xF000, 0x12000)
    (evidence,) = found.evidence
    assert (evidence.found, evidence.expected) == (f"{int(views.vmas.vma[0]):#x}", f"{int(views.vmas.vma[1]):#x}")


def test_the_first_of_a_list_leads_nowhere() -> None:
    views = views_of(Process(), THREE.__class__(pid=101, vmas=THREE.vmas), index="list")
    views.vmas.prev[2] = views.vmas.vma[1]  # the last of the process before
    (found,) = findings(views, "VMA-BACKLINK")
    assert found.evidence[0].expected == "0x0"


def test_highest_vm_end_is_the_end_of_the_last() -> None:
    views = views_of(THREE, Process(pid=101), index="list")
    views.mms.highest_vm_end[1] -= 0x1000
    (found,) = findings(views, "VMA-BACKLINK")
    assert (found.mm, found.start) == (mm_of(101), None)
    assert (found.evidence[0].found, found.evidence[0].expected) == ("0x7f3000", "0x7f4000")


def test_nothing_is_said_of_a_list_that_was_cut() -> None:
    views = views_of(THREE, index="list")
    views.vmas.prev[2] = views.mms.highest_vm_end[0] = 0
    add_problem(views, View.LIST, Problem.CUT_SHORT, mm_of(100))
    assert findings(views, "VMA-BACKLINK") == []


def test_kernels_with_a_maple_tree_have_no_such_links() -> None:
    assert findings(views_of(THREE), "VMA-BACKLINK") == []
