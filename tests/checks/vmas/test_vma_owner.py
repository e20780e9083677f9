"""VMA-OWNER on views made by hand."""

from __future__ import annotations

import pytest

from checks.handmade_views import Process, findings, mm_of, views_of


@pytest.mark.parametrize("index", ["maple", "list"])
def test_no_finding_where_every_vma_names_its_mm(index: str) -> None:
    assert findings(views_of(Process(), Process(pid=101), index=index), "VMA-OWNER") == []


def test_a_vma_of_another_process_in_an_index() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    views.vmas.mm[0] = mm_of(101)
    (found,) = findings(views, "VMA-OWNER")
    assert (found.mm, found.start, found.end) == (mm_of(100), 0x400000, 0x402000)
    assert (found.evidence[0].found, found.evidence[0].expected) == (f"{mm_of(101):#x}", f"{mm_of(100):#x}")


def test_each_index_says_so() -> None:
    views = views_of(Process(), index="list")
    views.vmas.mm[0] = 0
    assert [found.evidence[0].view for found in findings(views, "VMA-OWNER")] == ["vm_next list", "rbtree"]


def test_an_unread_vma_names_nobody() -> None:
    views = views_of(Process())
    views.vmas.mm[0], views.vmas.ok[0] = 0, False
    assert findings(views, "VMA-OWNER") == []
