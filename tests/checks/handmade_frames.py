"""Frames made by hand: none that is out of the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.views.frames.buffers import BufferCode
from vmaforensics.views.frames.frames import FramesView
from vmaforensics.views.frames.pointers import FramePointers
from vmaforensics.views.frames.reserved import Reserved
from vmaforensics.views.frames.unmapped import UnmappedAnon
from vmaforensics.views.frames.unowned import UnownedCode
from vmaforensics.views.objects.vmalloc import VmallocAreas
from vmaforensics.views.pages.frame_kinds import FrameKinds

if TYPE_CHECKING:
    from vmaforensics.views.views import Views


def unowned(*rows: tuple[int, int, int]) -> UnownedCode:
    """Code in frames: (frame, first of its run, frames of the run)."""
    code = UnownedCode.of(len(rows), pfn=[row[0] for row in rows])
    code.first[:], code.count[:] = [row[1] for row in rows], [row[2] for row in rows]
    return code.replace(data=np.full((len(rows), 16), 0x90, np.uint8))


def buffers(*rows: tuple[int, int], area: int = 0, caller: int = 0) -> BufferCode:
    """Code in buffers: (frame, row of HeldFrames or -1), all in one area of vmalloc, if any."""
    areas = VmallocAreas.of(len(rows))
    areas.start[:], areas.end[:], areas.caller[:] = area, area + 0x5000 if area else 0, caller
    return BufferCode(
        code=unowned(*((pfn, pfn, 1) for pfn, _ in rows)),
        held=np.array([held for _, held in rows], np.int64),
        areas=areas,
        unread=0,
        left_out=0,
    )


def add_frames(views: Views, **changes: Any) -> FramesView:  # noqa: ANN401 - members of FramesView
    """Give ``views`` frames in which nothing is found, but for ``changes``."""
    nothing = FramesView(
        kinds=FrameKinds(ranges=np.zeros((0, 2), np.uint64), kinds=np.zeros(0, np.uint8)),
        whole=True,
        cleared=True,
        code=unowned(),
        random=np.zeros(0, np.uint64),
        buffers=buffers(),
        pointers=FramePointers.zeros(0),
        places=[],
        unowned=0,
        unread=0,
        left_out=0,
        reserved=Reserved(10, 10, whole=True),
        reserved_code=unowned(),
        kexec=False,
        unmapped=UnmappedAnon.zeros(0),
        unmapped_left_out=0,
    )
    views.frames = replace(nothing, **changes)
    return views.frames
