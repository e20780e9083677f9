"""VMAs with a userfaultfd, and who has it open, made by hand."""

from __future__ import annotations

import numpy as np
from checks.handmade_handles import add_handles
from checks.handmade_views import Process, findings, mm_of, views_of
from handmade import LINUX, Machine

from vmaforensics.checks.finding import Severity
from vmaforensics.views.descriptors.descriptors import Descriptors
from vmaforensics.views.descriptors.handles import HandlesView
from vmaforensics.views.descriptors.keepers import KeptFiles
from vmaforensics.views.descriptors.memory_files import MemoryFiles
from vmaforensics.views.descriptors.sysv import Segments
from vmaforensics.views.descriptors.userfaults import Monitored, read_monitored
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.vmas.vmas import Vmas

UFFD_OPS = 0xFFFF_FFFF_8200_0000
MINE, THEIRS = 0xFFFF_8880_0010_0000, 0xFFFF_8880_0020_0000  # mms of processes 10 and 20
STRUCTS = LINUX | {
    "vm_userfaultfd_ctx": "ctx:*",
    "vm_area_struct": LINUX["vm_area_struct"] + " vm_userfaultfd_ctx:vm_userfaultfd_ctx",
    "file": "f_op:* private_data:*",
}


def test_each_vma_names_who_has_its_userfaultfd_open() -> None:
    machine = Machine(STRUCTS)
    machine.symbols["userfaultfd_fops"] = UFFD_OPS
    contexts = [machine.room(64) for _ in range(3)]
    vmas = [machine.put("vm_area_struct", {"vm_userfaultfd_ctx.ctx": at}) for at in (*contexts, 0)]
    files = [machine.put("file", {"f_op": UFFD_OPS, "private_data": at}) for at in contexts[:2]]
    files.append(machine.put("file", {"f_op": 1, "private_data": contexts[2]}))
    handles = HandlesView(
        descriptors=Descriptors.of(file=files, pid=[10, 20, 20], fd=[3, 4, 5]),
        kept=KeptFiles.zeros(0),
        memory_files=MemoryFiles.zeros(0),
        names=[],
        segments=Segments.zeros(0),
        whole=True,
        kept_whole=True,
    )
    rows = Vmas.of(vma=vmas, mm=[MINE] * 4, start=[0x1000, 0x2000, 0x3000, 0x4000], ok=[True] * 4)
    found = read_monitored(machine.kernel(), handles, rows, Tasks.of(tgid=[20, 10], mm=[THEIRS, MINE]))
    assert found.start.tolist() == [0x1000, 0x2000, 0x3000]
    assert found.context.tolist() == contexts
    assert found.pid.tolist() == [10, 20, 0]
    assert found.own.tolist() == [True, False, False]


def test_a_kernel_without_userfaultfd_has_none() -> None:
    machine = Machine(LINUX)
    vma = machine.put("vm_area_struct")
    handles = add_handles(views_of(Process()))
    rows = Vmas.of(vma=[vma], mm=[MINE], ok=[True])
    assert len(read_monitored(machine.kernel(), handles, rows, Tasks.zeros(0))) == 0


def test_only_another_process_is_told_and_nobody_ranks_low() -> None:
    views = views_of(Process(pid=100))
    views.monitored = Monitored.of(
        vma=[1, 2, 3],
        mm=[mm_of(100)] * 3,
        start=[0x1000, 0x3000, 0x5000],
        end=[0x2000, 0x4000, 0x6000],
        pid=[100, 7, 0],
        fd=[3, 4, 0],
        own=[True, False, False],
    )
    other, nobody = findings(views, "VMA-USERFAULT")
    assert (other.severity, other.pid, other.start, other.end) == (Severity.INFO, 100, 0x3000, 0x4000)
    assert other.title == "page faults at 0x3000-0x4000 are answered by descriptor 4 of process 7"
    assert (nobody.severity, nobody.start) == (Severity.LOW, 0x5000)
    assert "nobody who was found" in nobody.title
    views.monitored.own[:] = np.True_
    assert findings(views, "VMA-USERFAULT") == []
