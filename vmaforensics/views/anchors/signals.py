"""Signal handlers: user addresses that the kernel will jump to, once per ``sighand_struct``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import first_rows
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, U64
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.anchors.registers import Threads


@table()
class Handlers(Table):
    """A signal handler that is a function of the program; sorted by address of the sighand_struct and signal."""

    mm: U64
    task: U64  # the first that has it
    signal: I32  # from 1 on
    where: U64  # address of the k_sigaction
    handler: U64
    restorer: U64  # 0 where the program gave none


_SIG_IGN = 1  # include/uapi/asm-generic/signal-defs.h; SIG_DFL is 0


def read_handlers(kernel: Kernel, threads: Threads, log: ProblemLog) -> Handlers:
    """Every handler that is a function of the program, of the sighands of ``threads``.

    A sighand is shared only by tasks that share their memory (CLONE_SIGHAND needs CLONE_VM, kernel/fork.c
    copy_process). One that cannot be read is a problem of the view ``ANCHORS``.
    """
    sighands, ok = kernel.gather_member("task_struct", "sighand", threads.task)
    usable = np.flatnonzero(ok & kernel.arch.kernel_pointer(sighands))  # NULL once a task has been released
    owner = usable[first_rows(sighands[usable])]
    sighands = sighands[owner]
    action = kernel.member("sighand_struct", "action")
    count, words_each = action.count or 0, action.size // 8
    words, held = kernel.words(sighands + np.uint64(action.offset), count * words_each)
    log.add(View.ANCHORS, Problem.UNREADABLE, threads.mm[owner[~held]], sighands[~held])
    actions = words.reshape(len(sighands), count, words_each)
    handler, flags, restorer = (
        actions[:, :, kernel.offset("k_sigaction", f"sa.sa_{name}") // 8] for name in ("handler", "flags", "restorer")
    )
    who, which = np.nonzero(held[:, None] & (handler > _SIG_IGN))
    restores = (flags[who, which] & np.uint64(kernel.arch.sa_restorer)) != 0
    return Handlers(
        mm=threads.mm[owner[who]],
        task=threads.task[owner[who]],
        signal=(which + 1).astype(np.int32),
        where=sighands[who] + (action.offset + which * action.size).astype(np.uint64),
        handler=handler[who, which],
        restorer=np.where(restores, restorer[who, which], np.uint64(0)),
    )
