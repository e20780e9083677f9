"""What a kernel remembers of processes made by hand: nothing that lies outside of their VMAs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.arch.registers import Place
from vmaforensics.views.anchors.anchors import AnchorsView, MmAnchors
from vmaforensics.views.anchors.cpus import Cpus
from vmaforensics.views.anchors.registers import Threads
from vmaforensics.views.anchors.signals import Handlers

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

REGISTERS = 0xFFFF_8880_6000_0000  # where the registers of the first thread were saved
OFFSETS = {"ip": 128, "sp": 152}


def add_anchors(views: Views, *, cpus: Cpus | None = None) -> AnchorsView:
    """Give ``views`` anchors: one thread for each task, in its first VMA and on its last; a handler in the first."""
    tasks, vmas, count = views.tasks, views.vmas, len(views.tasks)
    of_mm = [vmas.take(vmas.mm == mm) for mm in tasks.mm]
    code = [int(rows.start[0]) + 0x10 for rows in of_mm]
    views.anchors = AnchorsView(
        mms=MmAnchors.of(count, mm=views.mms.mm, ok=[True] * count, auxv=views.mms.mm, entry=code),
        threads=Threads.of(
            count,
            task=tasks.task,
            mm=tasks.mm,
            pid=tasks.pid,
            tgid=tasks.tgid,
            registers=[REGISTERS + 256 * number for number in range(count)],
            user=[True] * count,
            ip=code,
            sp=[int(rows.end[-1]) - 0x100 for rows in of_mm],
        ),
        place=Place(offset=0, fitting=count, tried=count, offsets=OFFSETS),
        handlers=Handlers.of(
            count, mm=tasks.mm, task=tasks.task, signal=[15] * count, where=[0x9000] * count, handler=code
        ),
        cpus=cpus if cpus is not None else Cpus.zeros(0),
    )
    return views.anchors
