"""Operations under way, made by hand: tasks of views made by hand that are in the middle of something.

add_operations(views, Doing(pid=100, operation=Operation.FAULT, functions=("do_set_pte", "handle_mm_fault")))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from checks.handmade_views import mm_of, task_of
from vmaforensics.columns.texts import Texts
from vmaforensics.views.operations.operation import KNOWN, Operation
from vmaforensics.views.operations.operations import OperationsView, UnderWay
from vmaforensics.views.stacks.code import Functions
from vmaforensics.views.stacks.cpus import RunQueues
from vmaforensics.views.stacks.frames import Frames, Stacks
from vmaforensics.views.stacks.stacks import StacksView
from vmaforensics.views.system.modules import Modules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.views.views import Views


@dataclass(frozen=True, kw_only=True)
class Doing:
    """A task in the middle of something."""

    pid: int
    operation: Operation
    functions: Sequence[str] = ("something", "entry_SYSCALL_64")
    mm: int | None = None  # None: that of the process; 0: the task has none


def add_operations(
    views: Views, *doing: Doing, holders: dict[int, int] | None = None, unclear: Sequence[int] = ()
) -> OperationsView:
    """Give ``views`` these operations; ``holders`` are the pids that hold the mmap locks of pids, ``unclear`` the pids
    whose stacks are not known."""
    frames = [(stack, name) for stack, known in enumerate(doing) for name in known.functions]
    names = Texts.of(name.encode() for _, name in frames)
    count = len(doing)
    firsts = [next(at for at, (stack, _) in enumerate(frames) if stack == number) for number in range(count)]
    mms = [mm_of(known.pid) if known.mm is None else known.mm for known in doing]
    held = {mm_of(of): task_of(by) for of, by in (holders or {}).items()}
    view = OperationsView(
        under_way=UnderWay.of(
            count,
            task=[task_of(known.pid) for known in doing],
            pid=[known.pid for known in doing],
            tgid=[known.pid for known in doing],
            operation=[known.operation for known in doing],
            mm=mms,
            anywhere=[KNOWN[known.operation].anywhere for known in doing],
            stack=range(count),
            frame=firsts,
        ),
        stacks=StacksView(
            stacks=Stacks.zeros(count),
            frames=Frames.of(
                len(frames),
                stack=[stack for stack, _ in frames],
                function=range(len(frames)),
                sure=[True] * len(frames),
            ),
            functions=Functions.zeros(len(frames)),
            names=names,
            modules=Modules.zeros(0),
            queues=RunQueues.zeros(0),
            states=(),
            state=np.zeros(count, np.int32),
            kinds=(),
            source="made by hand",
        ),
        unclear=np.array(sorted(mm_of(pid) for pid in unclear), np.uint64),
        all_clear=True,
        copies=np.zeros(0, np.uint64),
        delays_removal=True,
        lock_owner=np.array([held.get(mm, 0) for mm in views.mms.mm.tolist()], np.uint64),
    )
    views.operations = view
    return view
