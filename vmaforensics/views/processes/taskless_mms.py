"""Address spaces that no task has: about to go, about to be given to a task, or kept by somebody else.

exit_mmap works on an mm that its task has let go (exit_mm, kernel/exit.c), exec fills one before it is anybody's
(bprm_mm_init, fs/exec.c), fork copies into one that the child has not got yet (dup_mm, kernel/fork.c). Their page
tables map pages like any other's: whoever adds up entries has to count theirs. Only the slab cache knows all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import is_first, values_at
from vmaforensics.columns.types import U8, U64
from vmaforensics.views.processes.mm_sources import Source

if TYPE_CHECKING:
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.processes.mm_sources import SourcesView
    from vmaforensics.views.processes.mms import Mms

_TASK_NEW = 0x800  # include/linux/sched.h


class MmState(IntEnum):
    """What an address space without a task is."""

    EXITING = 0  # mm_users is 0: exit_mmap takes it down, or is about to
    EMPTY = 1  # mm_users is 0 and its page tables are gone: kept by lazy users (active_mm) until mmdrop
    EXEC = 2  # bprm->mm: exec fills it before its task has it
    FORK = 3  # dup_mmap fills it before the child has it
    HELD = 4  # in use by somebody who is no task with this mm: a reader of /proc, a debugger, exec's old mm
    KERNEL = 5  # the kernel's own, to change its code through
    COPY = 6  # a byte copy of another, which dup_mm has just made

    @property
    def text(self) -> str:
        """The state in words."""
        return (
            "being torn down (exit_mmap), no task can use it",
            "torn down, kept until its last lazy user lets go",
            "being built by execve",
            "being copied by fork",
            "held by somebody who is no task of it",
            "the kernel's own",
            "just copied by fork, nothing of its own yet",
        )[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class TasklessMms:
    """Every allocated ``mm_struct`` that no list of processes leads to; see :func:`taskless_mms`."""

    mms: Mms  # sorted by address; task, pid and comm are those of mm->owner, as far as there is one
    state: U8  # MmState of each
    owner: U64  # task_struct of mm->owner; 0 for none

    def mapping(self) -> Mms:
        """Those whose page tables map pages that count it, each table once."""
        fits = self.mms.ok & (self.mms.pgd != 0) & (self.mms.count > 0)
        fits &= ~np.isin(self.state, (MmState.KERNEL, MmState.COPY))
        return self.mms.take(fits)


def taskless_mms(sources: SourcesView, judged: Mms) -> TasklessMms:
    """The allocated mms that are not among ``judged``, those that are read as a process's."""
    at = np.flatnonzero(~np.isin(sources.mms.mm, judged.mm) & ((sources.mm_sources & np.uint16(Source.SLAB)) != 0))
    mms, owner = sources.mms.take(at), sources.owner[at]
    state = np.full(len(at), MmState.HELD, np.uint8)
    by = sources.task_rows(owner)
    theirs = values_at(sources.tasks.mm, by)
    state[(by >= 0) & (theirs != mms.mm) & (mms.map_count <= 1) & (mms.users > 0)] = MmState.EXEC
    state[(by >= 0) & ((values_at(sources.tasks.state, by) & _TASK_NEW) != 0)] = MmState.FORK
    over = mms.users <= 0
    state[over] = np.where(mms.pgtables_bytes[over] != 0, MmState.EXITING, MmState.EMPTY)
    state[_is_copy(mms, judged)] = MmState.COPY
    state[sources.kernel_own[at]] = MmState.KERNEL
    return TasklessMms(mms=mms, state=state, owner=owner)


def _is_copy(mms: Mms, judged: Mms) -> Bools:
    """dup_mm copies the mm_struct of the parent, the address of its page tables included; mm_init sets that anew.

    Of several with the same page tables, the first counts.
    """
    copy: Bools = (np.isin(mms.pgd, judged.pgd) | ~is_first(mms.pgd)) & (mms.pgd != 0)
    return copy
