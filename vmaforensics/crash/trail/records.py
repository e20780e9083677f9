"""The records of the image as a complaint needs them: whose an address space is, what an object is, what a word is."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.crash.trail.objects import Objects
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.indices.maple import walk_maple
from vmaforensics.views.indices.vma_list import walk_list
from vmaforensics.views.objects.explain import explain
from vmaforensics.views.objects.forms import form_of
from vmaforensics.views.objects.members import member_at, pointed_to
from vmaforensics.views.objects.nearly import own_symbols
from vmaforensics.views.objects.places import Place
from vmaforensics.views.objects.surroundings import read_surroundings
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.mms import Mms, read_mms
from vmaforensics.views.processes.tasks import PF_EXITING, Tasks
from vmaforensics.views.vmas.vmas import Vmas, read_vmas
from vmaforensics.words.printable import comm_of, decoded

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.crash.trail.objects import SlabObject
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.objects.explain import Meaning
    from vmaforensics.views.objects.surroundings import Surroundings
    from vmaforensics.views.pages.page_types import PageReader
    from vmaforensics.views.views import Views


class Records:
    """Views of an image, and look-ups in its memory. What cannot be read is None."""

    def __init__(self, kernel: Kernel, views: Views) -> None:
        self.kernel = kernel
        self.views = views
        self.objects = Objects(kernel, lambda: self.surroundings.pointers)
        self.tasks = views.tasks if views.sources is None else views.sources.tasks
        self._owners = self._find_owners()
        self._indices: dict[int, IndexEntries] = {}

    @property
    def pages(self) -> PageReader | None:
        """The struct pages."""
        return self.objects.pages

    def _find_owners(self) -> dict[int, tuple[int, bytes]]:
        """(pid, comm) of each mm. A task that exits has none any more, and its CPU still uses it (exit_mm)."""
        found: dict[int, tuple[int, bytes]] = {}
        tasks = self.tasks
        leaving = tasks.take((tasks.mm == 0) & (tasks.active_mm != 0) & (tasks.flags & np.uint32(PF_EXITING) != 0))
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

    def user_of(self, mm: int) -> int | None:
        """The pid of a task that has the mm, or has not switched away from it since it left it."""
        tasks = self.tasks
        leaving = (tasks.mm == 0) & (tasks.active_mm == np.uint64(mm)) & (tasks.flags & np.uint32(PF_EXITING) != 0)
        rows = np.flatnonzero(tasks.ok & ((tasks.mm == np.uint64(mm)) | leaving))
        return int(tasks.pid[rows[0]]) if len(rows) else None

    def who(self, mm: int) -> str:
        """The process of an mm in words."""
        if mm not in self._owners:
            return f"mm {mm:#x}"
        pid, comm = self._owners[mm]
        return f"pid {pid} ({decoded(comm)})"

    # What ----------------------------------------------------------------------------------------------

    @cached_property
    def surroundings(self) -> Surroundings:
        """What values are explained by."""
        return read_surroundings(self.kernel, self.tasks)

    def meanings(self, values: U64, mm: int | None = None) -> list[Meaning]:
        """What values lead to; user addresses as :func:`explain` has it."""
        return explain(self.surroundings, values, mm)

    def _meaning(self, address: int) -> Meaning:
        return self.meanings(np.array([address % (1 << 64)], np.uint64))[0]

    def own_symbols(self, value: int) -> list[int]:
        """``value`` with one bit changed, where that leads to code or data of the kernel itself."""
        return own_symbols(self.surroundings, value)

    def object_name(self, found: SlabObject) -> str:
        """An object in words: "allocated vm_area_struct 0xffff…: 55fb…-55fb… r-xp /usr/bin/mawk of pid 250 (mawk)"."""
        return self._meaning(found.start).text

    def leads_to(self, value: int) -> str:
        """What a value leads to, in words."""
        return self._meaning(value).text or f"{value:#x}"

    def word_name(self, address: int) -> str:
        """A word in words: the member of the object that it is, and whose."""
        found = self.objects.at(address)
        if found is None:
            meaning = self._meaning(address)
            return f"a word of the {meaning.text}" if meaning.place == Place.STACK else meaning.text or "a word"
        if found.struct is None:
            return f"the word at +{found.offset:#x} in {self.object_name(found)}"
        form = form_of(self.surroundings, found.struct, found.start)
        member = member_at(self.kernel.types, form.struct, found.offset, innermost=True, unused=form.unused)
        if member is None:
            return f"the word at +{found.offset:#x} in {self.object_name(found)}"
        return f"{found.struct}.{member} in {self.object_name(found)}"

    def pointed_to(self, address: int) -> str | None:
        """The structure that the word at ``address`` points to by the type of the object that it lies in."""
        found = self.objects.at(address)
        if found is None or found.struct is None:
            return None
        form = form_of(self.surroundings, found.struct, found.start)
        return pointed_to(self.kernel.types, form.struct, found.offset, form.unused)

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

    # VMAs ----------------------------------------------------------------------------------------------

    def mms(self, mm: int) -> Mms:
        """The ``mm_struct`` at an address, whether a task uses it or not."""
        pid, comm = self._owners.get(mm, (0, b""))
        one = Tasks.of(mm=[mm], tgid=[pid], pid=[pid], comm=[comm], ok=[True])
        return read_mms(self.kernel, one, ProblemLog())

    def index(self, mm: int) -> IndexEntries:
        """The VMAs of an mm by its maple tree, or by the list before 6.1: nothing where it has neither any more."""
        if mm not in self._indices:
            mms, log = self.mms(mm), ProblemLog()
            tree = walk_maple(self.kernel, mms, log)
            listed = None if tree is not None else walk_list(self.kernel, mms, np.zeros(0, np.uint64), log)
            self._indices[mm] = tree.entries if tree is not None else listed or IndexEntries.zeros(0)
        return self._indices[mm]
