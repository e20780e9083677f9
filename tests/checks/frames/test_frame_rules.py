"""FRAME-UNOWNED, FRAME-RESERVED and FRAME-HELD on views made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from checks.handmade_frames import add_frames, buffers, unowned
from checks.handmade_handles import add_handles
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.finding import Severity
from vmaforensics.views.descriptors.holders import HeldFrames, Holder
from vmaforensics.views.frames.pointers import FramePointers
from vmaforensics.views.frames.reserved import Reserved
from vmaforensics.views.frames.unmapped import UnmappedAnon

RULES = ("FRAME-UNOWNED", "FRAME-RESERVED", "FRAME-HELD")


@pytest.mark.parametrize("rule", RULES)
def test_nothing_out_of_the_way_gives_no_finding(rule: str) -> None:
    views = views_of(Process())
    add_frames(views)
    add_handles(views)
    assert findings(views, rule) == []
    views.frames = None
    assert findings(views, rule) == []


# FRAME-UNOWNED ------------------------------------------------------------------------------------------


def test_a_run_of_frames_with_code_is_one_finding_with_who_points_at_it() -> None:
    views = views_of(Process())
    pointers = FramePointers.of(pfn=[0x46], pa=[0x1230], word=[0xFFFF_8880_0004_6000], piece=[False])
    add_frames(
        views,
        code=unowned((0x45, 0x44, 4), (0x46, 0x44, 4), (0x80, 0x80, 1)),
        pointers=pointers,
        places=["kmalloc-64 at 0xffff888000001200"],
    )
    first, second = findings(views, "FRAME-UNOWNED")
    assert first.severity is second.severity is Severity.MEDIUM
    assert "0x45 and 1 more" in first.title
    assert "in a run of 4 such frames from 0x44 on" in first.evidence[0].what
    assert first.evidence[0].found.startswith("90 90")
    assert first.evidence[2].what == "a word in kmalloc-64 at 0xffff888000001200 leads to page frame 0x46"
    assert second.evidence[-1].what == "no word in kernel memory leads there"
    assert (first.mm, first.pid, first.apart) == (0, 0, 2)


@pytest.mark.parametrize("weak", ["not cleared", "piece"])
def test_buffers_and_pages_that_are_not_cleared_rank_low(weak: str) -> None:
    views = views_of(Process())
    pointers = FramePointers.of(pfn=[0x45], pa=[0x1230], word=[1], piece=[weak == "piece"])
    add_frames(views, code=unowned((0x45, 0x45, 1)), pointers=pointers, places=["x"], cleared=weak != "not cleared")
    assert [finding.severity for finding in findings(views, "FRAME-UNOWNED")] == [Severity.LOW]


def test_nothing_is_unowned_where_page_tables_of_the_kernel_are_lost() -> None:
    views = views_of(Process())
    add_frames(views, code=unowned((0x45, 0x45, 1)), whole=False)
    assert findings(views, "FRAME-UNOWNED") == []


def test_many_frames_of_a_run_are_counted() -> None:
    views = views_of(Process())
    add_frames(views, code=unowned(*((0x100 + row, 0x100, 50) for row in range(50))))
    (finding,) = findings(views, "FRAME-UNOWNED")
    assert len(finding.evidence) < 20
    assert any("and 34 more" in item.what for item in finding.evidence)


def test_frames_that_look_encrypted_are_one_finding_of_low_rank() -> None:
    views = views_of(Process())
    add_frames(views, random=np.arange(0x50, 0x50 + 40, dtype=np.uint64))
    (finding,) = findings(views, "FRAME-UNOWNED")
    assert finding.severity is Severity.LOW
    assert finding.title == "40 pages, 160 KiB, that nobody accounts for, look encrypted or compressed"
    assert len(finding.evidence) == 18
    assert finding.evidence[0].address == 0x50 << 12


# FRAME-RESERVED -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kexec", "severity"),
    [(True, False, Severity.MEDIUM), (True, True, Severity.LOW), (False, False, Severity.LOW)],
)
def test_more_reserved_frames_than_the_allocator_never_got(code: bool, kexec: bool, severity: Severity) -> None:
    views = views_of(Process())
    rows = unowned((0x45, 0x45, 1)) if code else unowned()
    add_frames(views, reserved=Reserved(12, 10, whole=True), reserved_code=rows, kexec=kexec)
    (finding,) = findings(views, "FRAME-RESERVED")
    assert finding.severity is severity
    assert finding.title.startswith("2 pages, 8 KiB, are marked reserved")
    assert (finding.evidence[0].found, finding.evidence[0].expected) == ("12", "10")
    assert len(finding.evidence) == 1 + code


@pytest.mark.parametrize("reserved", [Reserved(9, 10, whole=True), Reserved(12, 10, whole=False)])
def test_a_balloon_and_a_zone_that_was_not_read_give_none(reserved: Reserved) -> None:
    views = views_of(Process())
    add_frames(views, reserved=reserved)
    assert findings(views, "FRAME-RESERVED") == []


# FRAME-HELD ---------------------------------------------------------------------------------------------

PIPE = 0xFFFF_8880_0000_9000


@pytest.mark.parametrize(("code", "severity"), [(False, Severity.INFO), (True, Severity.LOW)])
def test_pages_that_a_pipe_holds_are_told_with_its_process(code: bool, severity: Severity) -> None:
    views = views_of(Process(pid=100))
    handles = add_handles(views)
    held = HeldFrames.of(
        pfn=[0x44, 0x45, 0x46], holder=[Holder.VMSPLICED] * 3, by=[PIPE] * 3, slot=[1, 2, 3], pid=[100] * 3, fd=[5] * 3
    )
    views.handles = replace(handles, held=held)
    add_frames(views, unmapped=UnmappedAnon.of(pfn=[0x45, 0x46], refcount=[1, 1], held=[1, 2], code=[code, False]))
    (finding,) = findings(views, "FRAME-HELD")
    assert finding.severity is severity
    assert finding.mm == mm_of(100)
    assert finding.title.startswith("2 anonymous pages that no page table leads to")
    assert finding.title.endswith("held by a pipe (vmsplice), descriptor 5 of process 100")
    assert "held by the word at 0x2" in finding.evidence[0].what


def test_code_ranks_above_other_pages_where_nobody_can_be_named() -> None:
    views = views_of(Process())
    add_handles(views)
    rows = UnmappedAnon.of(
        pfn=[0x44, 0x45, 0x46], held=[-1] * 3, code=[False, True, True], passing=[False, False, True]
    )
    add_frames(views, unmapped=rows)
    first, second = findings(views, "FRAME-HELD")
    assert (first.severity, second.severity) == (Severity.MEDIUM, Severity.LOW)
    assert "code in page frame 0x45:" in first.title
    assert second.title.startswith("page frame 0x44:")
    assert (first.mm, first.apart, first.by_others) == (0, 1, True)


def test_every_holder_is_told_of_once_and_its_own_frames_only() -> None:
    views = views_of(Process(pid=100))
    handles = add_handles(views)
    by = [PIPE + 0x100 * (row % 3) for row in range(9)]
    held = HeldFrames.of(pfn=range(9), holder=[Holder.VMSPLICED] * 9, by=by, slot=range(9), pid=[100] * 9, fd=[5] * 9)
    views.handles = replace(handles, held=held)
    add_frames(views, unmapped=UnmappedAnon.of(pfn=range(9), refcount=[1] * 9, held=range(9)))
    found = findings(views, "FRAME-HELD")
    frames = [[int(item.address) >> 12 for item in finding.evidence] for finding in found]
    assert sorted(frames) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_code_in_a_buffer_names_its_holder_with_a_descriptor_or_without() -> None:
    views = views_of(Process(pid=100))
    handles = add_handles(views)
    held = HeldFrames.of(
        pfn=[0x50, 0x60],
        holder=[Holder.PIPE, Holder.BPF_MAP],
        by=[PIPE, PIPE + 64],
        slot=[8, 16],
        pid=[100, 0],
        fd=[5, -1],
    )
    views.handles = replace(handles, held=held)
    add_frames(views, buffers=buffers((0x50, 0), (0x60, 1)))
    first, second = sorted(findings(views, "FRAME-HELD"), key=lambda finding: finding.title, reverse=True)
    assert first.severity is second.severity is Severity.LOW
    assert first.title.endswith("machine code: held by a pipe, descriptor 5 of process 100")
    assert second.title.endswith("held by a BPF map that no descriptor leads to")
    assert (first.mm, second.mm) == (mm_of(100), 0)
    assert "held by the word at 0x8" in first.evidence[0].what


@pytest.mark.parametrize(("area", "caller", "severity", "words"), [
    (0xFFFF_C900_0000_0000, 0xFFFF_FFFF_8100_1234, Severity.LOW, "asked for by 0xffffffff81001234"),
    (0xFFFF_C900_0000_0000, 0, Severity.MEDIUM, "asked for by nobody who is known"),
    (0, 0, Severity.MEDIUM, "outside of every area of vmalloc"),
])  # fmt: skip
def test_code_in_vmalloc_ranks_by_who_asked_for_it(area: int, caller: int, severity: Severity, words: str) -> None:
    views = views_of(Process())
    add_handles(views)
    add_frames(views, buffers=buffers((0x50, -1), (0x51, -1), area=area, caller=caller))
    (finding,) = findings(views, "FRAME-HELD")
    assert finding.severity is severity
    assert words in finding.title
    assert (finding.mm, finding.apart, finding.by_others) == (0, 2, True)
