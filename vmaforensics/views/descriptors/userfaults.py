"""Who answers page faults of which VMA: userfaultfd (fs/userfaultfd.c).

A VMA that is registered names the context (``vm_userfaultfd_ctx``); the open file of the context is read by whoever
answers. Closing it unregisters every VMA (``userfaultfd_release``): a context that is named has an open file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import first_rows, rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bools

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.descriptors.handles import HandlesView
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.vmas.vmas import Vmas


@table()
class Monitored(Table):
    """A VMA that is registered with a userfaultfd."""

    vma: U64
    mm: U64
    start: U64
    end: U64
    context: U64  # userfaultfd_ctx
    pid: I32  # of the first process found that has it open; 0: none was found
    fd: I32
    own: Bools  # a process with this mm has it open


@table(struct="file")
class _OpenFiles(Table):
    operations: U64 = member("f_op")
    private: U64 = member("private_data")


def read_monitored(kernel: Kernel, handles: HandlesView, vmas: Vmas, tasks: Tasks) -> Monitored:
    """Every VMA with a userfaultfd; none where the kernel has no such thing."""
    operations = kernel.symbols.get("userfaultfd_fops")
    contexts, ok = kernel.gather_member("vm_area_struct", "vm_userfaultfd_ctx.ctx?", vmas.vma)
    at = np.flatnonzero(ok & vmas.ok & kernel.arch.kernel_pointer(contexts))
    if operations is None or not len(at):
        return Monitored.zeros(0)
    file = np.concatenate([handles.descriptors.file, handles.kept.file])
    pid = np.concatenate([handles.descriptors.pid, handles.kept.pid])
    fd = np.concatenate([handles.descriptors.fd, handles.kept.fd])
    files, read = kernel.gather(_OpenFiles, file)
    mine = np.flatnonzero(read & (files.operations == np.uint64(operations % (1 << 64))))
    context, pid, fd = files.private[mine], pid[mine], fd[mine]
    by_tgid = np.argsort(tasks.tgid, kind="stable")
    mm = values_at(tasks.mm, values_at(by_tgid, rows_of(tasks.tgid[by_tgid], pid), -1))
    first = first_rows(context)
    holder = values_at(first, rows_of(context[first], contexts[at]), -1)
    pairs = set(zip(context.tolist(), mm.tolist(), strict=True))
    own = [pair in pairs for pair in zip(contexts[at].tolist(), vmas.mm[at].tolist(), strict=True)]
    return Monitored(
        vma=vmas.vma[at],
        mm=vmas.mm[at],
        start=vmas.start[at],
        end=vmas.end[at],
        context=contexts[at],
        pid=values_at(pid, holder),
        fd=values_at(fd, holder),
        own=np.array(own, np.bool_),
    )
