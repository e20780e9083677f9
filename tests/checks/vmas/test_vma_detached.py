"""VMA-DETACHED: a VMA of the index that says it is in none."""

from __future__ import annotations

import pytest

from checks.handmade_views import Process, findings, views_of, vma_row


@pytest.mark.parametrize(
    ("refcnt", "detached", "found"), [(-1, False, 0), (1, False, 0), (2, False, 0), (0, False, 1), (-1, True, 1)]
)
def test_a_vma_that_is_marked_as_taken_out_is_found(refcnt: int, *, detached: bool, found: int) -> None:
    views = views_of(Process(pid=100))
    row = vma_row(views, 0x400000)
    views.vmas.refcnt[row], views.vmas.detached[row] = refcnt, detached
    told = findings(views, "VMA-DETACHED")
    assert [(finding.pid, finding.start) for finding in told] == [(100, 0x400000)] * found
