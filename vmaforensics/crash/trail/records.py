"""The records of the image as a complaint needs them: whose an address space is, what an object is, what a word is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import rows_of
from vmaforensics.crash.trail.members import member_at, struct_of_cache
from vmaforensics.crash.trail.objects import Objects
from vmaforensics.views.indices.maple import walk_maple
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.mms import Mms, read_mms
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.slab.objects import State
from vmaforensics.views.vmas.vmas import Vmas, read_vmas
from vmaforensics.words.printable import comm_of, decoded

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.crash.trail.objects import SlabObject
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.indices.maple import MapleTree
    from vmaforensics.views.pages.page_types import PageReader
    from vmaforensics.views.views import Views

_EXITING: Final = 0x4  # PF_EXITING, include/linux/sched.h
_FREED: Final = {State.FREE: "freed ", State.ALLOCATED: "", State.UNKNOWN: ""}


class Records:
    """Views of an image, and look-ups in its memory. What cannot be read is None."""

    def __init__(self, kernel: Kernel, views: Views) -> None:
        self.kernel = kernel
        self.views = views
        self.objects = Objects(kernel, views.slab)
        self.tasks = views.tasks if views.sources is None else views.sources.tasks
        self._owners = self._find_owners()
        self._trees: dict[int, MapleTree | None] = {}

    @property
    def pages(self) -> PageReader | None:
        """The struct pages."""
        return self.objects.pages

    def _find_owners(self) -> dict[int, tuple[int, bytes]]:
        """(pid, comm) of each mm. A task that exits has none any more, and its CPU still uses it (exit_mm)."""
        found: dict[int, tuple[int, bytes]] = {}
        tasks = self.tasks
        leaving = tasks.take((tasks.mm == 0) & (tasks.active_mm != 0) & (tasks.flags & np.uint32(_EXITING) != 0))
        for mms, pids, comms in (
            (leaving.active_mm, leaving.tgid, leaving.comm),
            (self.views.mms.mm, self.views.mms.pid, self.views.mms.comm),
        ):
            for mm, pid, comm in zip(mms.tolist(), pids.tolist(), comms.tolist(), strict=True):
                if pid:
                    found[mm] = (pid, comm_of(comm))
        return found

    # Whose ---------------------------------------------------------------------------------------------

    def mm_of(self, pid: int | None) -> int:
        """The address space of a task, or that which it was leaving; 0 for none."""
        for row in [] if pid is None else np.flatnonzero(self.tasks.pid == pid).tolist():
            if self.tasks.ok[row]:
                return int(self.tasks.mm[row]) or int(self.tasks.active_mm[row])
        return 0

    def pid_of(self, mm: int) -> int | None:
        """The process of an mm."""
        return self._owners[mm][0] if mm in self._owners else None

    def who(self, mm: int) -> str:
        """The process of an mm in words."""
        if mm not in self._owners:
            return f"mm {mm:#x}"
        pid, comm = self._owners[mm]
        return f"pid {pid} ({decoded(comm)})"

    def task_name(self, task: int) -> str:
        """The task at an address in words."""
        row = int(rows_of(self.tasks.task, np.array([task], np.uint64))[0]) if len(self.tasks) else -1
        if row < 0 and self.views.sources is None:
            row = next(iter(np.flatnonzero(self.tasks.task == np.uint64(task)).tolist()), -1)
        if row < 0:
            return f"task {task:#x}"
        return f"pid {int(self.tasks.pid[row])} ({decoded(comm_of(self.tasks.comm[row]))})"

    # What ----------------------------------------------------------------------------------------------

    def object_name(self, found: SlabObject) -> str:
        """An object in words: "vm_area_struct ffff… (0x55fb8d49f000-0x55fb8d4a2000) of pid 250 (awk-exits)"."""
        struct = struct_of_cache(self.kernel, found.cache)
        name = f"{_FREED.get(found.state, '')}{struct or 'object of ' + found.cache} {found.start:#x}"
        if struct == "task_struct":
            return f"{name}, {self.task_name(found.start)}"
        if struct == "mm_struct":
            return f"{name} of {self.who(found.start)}" if found.start in self._owners else name
        if struct == "vm_area_struct":
            vma = self.vmas(np.array([found.start], np.uint64))
            owner = int(vma.mm[0]) if len(vma) else 0
            whose = f" of {self.who(owner)}" if owner in self._owners else ""
            return f"{name} ({int(vma.start[0]):#x}-{int(vma.end[0]):#x}){whose}" if len(vma) else name
        return name

    def word_name(self, address: int) -> str:
        """A word in words: the member of the object that it is, and whose."""
        found = self.objects.at(address)
        if found is None:
            symbol = self.kernel.symbols.name_of(address)
            return "a word" if symbol is None else f"the variable {symbol}"
        struct = struct_of_cache(self.kernel, found.cache)
        member = None if struct is None else member_at(self.kernel, struct, found.offset)
        if struct is None or member is None:
            return f"{self.object_name(found)}+{found.offset:#x}"
        return f"{struct}.{member} in {self.object_name(found)}"

    def vmas(self, addresses: U64) -> Vmas:
        """The ``vm_area_struct`` at each address that can be read."""
        vmas = read_vmas(self.kernel, addresses, ProblemLog())
        return vmas.take(vmas.ok)

    def word(self, address: int) -> int | None:
        """The 64-bit word at a kernel address."""
        words, ok = self.kernel.words(np.array([address % (1 << 64)], np.uint64), 1)
        return int(words[0, 0]) if ok[0] else None

    def words(self, address: int, count: int) -> U64:
        """``count`` words from a kernel address on; none if one cannot be read."""
        words, ok = self.kernel.words(np.array([address], np.uint64), count)
        return words[0] if ok[0] else np.zeros(0, np.uint64)

    def physical(self, address: int) -> int | None:
        """Where a kernel address lies in physical memory."""
        pas, _, mapped = self.kernel.space.translate(np.array([address], np.uint64))
        return int(pas[0]) if mapped[0] else None

    # Trees ---------------------------------------------------------------------------------------------

    def mms(self, mm: int) -> Mms:
        """The ``mm_struct`` at an address, whether a task uses it or not."""
        pid, comm = self._owners.get(mm, (0, b""))
        one = Tasks.of(mm=[mm], tgid=[pid], pid=[pid], comm=[comm], ok=[True])
        return read_mms(self.kernel, one, ProblemLog())

    def tree(self, mm: int) -> MapleTree | None:
        """The maple tree of an mm; None without one."""
        if mm not in self._trees:
            mms = self.mms(mm)
            self._trees[mm] = walk_maple(self.kernel, mms, ProblemLog()) if len(mms) else None
        return self._trees[mm]
