"""VMA-PGOFF on views made by hand."""

from __future__ import annotations

import pytest

from checks.handmade_views import Process, findings, views_of, vma_row
from vmaforensics.views.view import View

VMAS = ("400000-402000 r-xp /bin/cat", "600000-604000 rw-p", "7f0000-7f4000 rw-p [stack]")


@pytest.mark.parametrize("index", ["maple", "list"])
def test_no_finding_where_both_offsets_are_the_same(index: str) -> None:
    views = views_of(Process(vmas=VMAS), index=index)
    views.vmas.pgoff[:] = views.vmas.anon_pgoff
    assert findings(views, "VMA-PGOFF") == []


def test_an_anonymous_vma_with_another_offset() -> None:
    views = views_of(Process(vmas=VMAS))
    row = vma_row(views, 0x600000)
    views.vmas.anon_pgoff[row], views.vmas.pgoff[row] = 0x600, 0x610
    (found,) = findings(views, "VMA-PGOFF")
    assert (found.start, found.end) == (0x600000, 0x604000)
    (evidence,) = found.evidence
    assert (evidence.view, evidence.found, evidence.expected) == (View.VMA.label, "0x610", "0x600")


@pytest.mark.parametrize("column", ["file", "ops"])
def test_memory_of_files_and_special_mappings_has_two_offsets_of_its_own(column: str) -> None:
    views = views_of(Process(vmas=VMAS))
    row = vma_row(views, 0x600000)
    views.vmas.columns()[column][row] = 0xFFFF_8880_1234_0000
    views.vmas.pgoff[row] = 0
    assert findings(views, "VMA-PGOFF") == []


def test_an_unread_vma_has_no_offsets() -> None:
    views = views_of(Process(vmas=VMAS))
    row = vma_row(views, 0x600000)
    views.vmas.pgoff[row], views.vmas.ok[row] = 0, False
    assert findings(views, "VMA-PGOFF") == []
