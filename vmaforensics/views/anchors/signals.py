"""Signal handlers: user addresses that the kernel will jump to, once per ``sighand_struct``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

HANDLERS = np.dtype(
    [
        ("mm", np.uint64),
        ("task", np.uint64),  # the first that has it
        ("signal", np.int32),  # from 1 on
        ("where", np.uint64),  # address of the k_sigaction
        ("handler", np.uint64),
        ("restorer", np.uint64),  # 0 where the program gave none
    ]
)

_SIG_IGN = 1  # include/uapi/asm-generic/signal-defs.h; SIG_DFL is 0
_SA_RESTORER = 0x04000000  # arch/x86/include/uapi/asm/signal.h


def read_handlers(kernel: Kernel, threads: NDArray[np.void], log: ProblemLog) -> NDArray[np.void]:
    """Every handler that is a function of the program; dtype ``HANDLERS``, by sighand and signal.

    ``threads`` has dtype ``THREADS``. A sighand is shared only by tasks that share their memory
    (CLONE_SIGHAND needs CLONE_VM, kernel/fork.c copy_process).
    """
    got, ok = kernel.gather("task_struct", threads["task"], ["sighand"])
    usable = ok & kernel_pointer(got["sighand"])  # NULL once a task has been released
    sighands, first = np.unique(got["sighand"][usable], return_index=True)
    owner = threads[usable][first]
    action = kernel.member("sighand_struct", "action")
    handler, flags, restorer = (
        kernel.offset("k_sigaction", f"sa.sa_{name}") // 8 for name in ("handler", "flags", "restorer")
    )
    count = action.count or 0
    words, held = kernel.words(sighands + np.uint64(action.offset), count * action.size // 8)
    log.add(View.ANCHORS, Problem.UNREADABLE, owner["mm"][~held], sighands[~held])
    actions = words.reshape(len(sighands), count, action.size // 8)
    who, which = np.nonzero(held[:, None] & (actions[:, :, handler] > _SIG_IGN))
    rows = np.zeros(len(who), HANDLERS)
    rows["mm"], rows["task"], rows["signal"] = owner["mm"][who], owner["task"][who], which + 1
    rows["where"] = sighands[who] + (action.offset + which * action.size).astype(np.uint64)
    rows["handler"] = actions[who, which, handler]
    restores = (actions[who, which, flags] & np.uint64(_SA_RESTORER)) != 0
    rows["restorer"] = np.where(restores, actions[who, which, restorer], np.uint64(0))
    return rows
