"""VMA-ORDER on views made by hand."""

from __future__ import annotations

from checks.handmade_views import Process, findings, views_of, vma_row

THREE = Process(vmas=("a000-c000 rw-p", "c000-d000 r--p", "f000-12000 rw-p"))


def test_no_finding_for_vmas_that_touch() -> None:
    assert findings(views_of(THREE), "VMA-ORDER") == []


def test_no_finding_across_processes() -> None:
    later = Process(pid=101, vmas=("1000-2000 r--p",))
    assert findings(views_of(THREE, later), "VMA-ORDER") == []


def test_two_vmas_that_overlap() -> None:
    views = views_of(THREE)
    views.vmas.end[vma_row(views, 0xA000)] = 0xC001
    (found,) = findings(views, "VMA-ORDER")
    assert (found.start, found.end) == (0xA000, 0xD000)
    assert "0xa000-0xc001 and 0xc000-0xd000 overlap" in found.title


def test_every_index_has_an_order_of_its_own() -> None:
    views = views_of(THREE, index="list")
    assert views.vma_list is not None
    views.vma_list = views.vma_list.take(slice(None, None, -1))
    (found,) = findings(views, "VMA-ORDER")
    assert {item.view for item in found.evidence} == {"vm_next list"}
    assert len(found.evidence) == 2
