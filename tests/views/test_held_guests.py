"""What a guest unmapped and a pipe and io_uring go on holding: all of it, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.checks.finding import Severity
from vmaforensics.views.descriptors.holders import Holder

if TYPE_CHECKING:
    from support import Sample

PIPE, RING = 3, 5  # pages, as guest/kept.c has them


@pytest.fixture
def owner(kept_guest: Sample) -> int:
    if "run/log/held" not in kept_guest.truth:
        pytest.skip("an image made before guest/kept.c had the role")
    return int(kept_guest.truth["run/log/held"].split()[1])


def test_every_page_that_is_held_is_found_with_its_holder(kept_guest: Sample, owner: int) -> None:
    handles, frames = kept_guest.analysis.views.handles, kept_guest.analysis.views.frames
    assert handles is not None
    assert frames is not None
    mine = handles.held.take(handles.held.pid == owner)
    counts = np.bincount(mine.holder, minlength=len(Holder)).tolist()
    assert {Holder(row): count for row, count in enumerate(counts) if count} == {
        Holder.VMSPLICED: PIPE,
        Holder.IO_URING: RING,
    }
    unmapped = frames.unmapped
    assert unmapped.pfn[unmapped.held >= 0].tolist() == np.unique(mine.pfn).tolist()
    assert unmapped.code[unmapped.held >= 0].all()
    pinned = np.isin(unmapped.pfn, mine.pfn[mine.holder == Holder.IO_URING])
    assert (unmapped.refcount[pinned] >= 1024).all()  # GUP_PIN_COUNTING_BIAS


def test_the_report_names_the_process_and_the_holder(kept_guest: Sample, owner: int) -> None:
    told = [finding for finding in kept_guest.analysis.findings if finding.rule.id == "FRAME-HELD"]
    assert [(finding.severity, finding.pid) for finding in told] == [(Severity.LOW, owner)] * 2
    titles = sorted(finding.title for finding in told)
    assert titles[0].startswith(f"{PIPE} anonymous pages")
    assert "a pipe (vmsplice), descriptor" in titles[0]
    assert titles[1].startswith(f"{RING} anonymous pages")
    assert "a buffer registered with io_uring, descriptor" in titles[1]


def test_nothing_of_a_kept_guest_is_unowned(kept_guest: Sample) -> None:
    told = {finding.rule.id for finding in kept_guest.analysis.findings}
    assert not told & {"FRAME-UNOWNED", "FRAME-RESERVED"}
