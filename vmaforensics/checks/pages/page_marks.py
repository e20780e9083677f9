"""Where a page-table entry disagrees with the VMA that claims it, entry by entry.

Every entry of the user half lies in a VMA, allows what the VMA allows and no more, and leads to a page that names
the VMA's own file or anon_vma at the right offset: free_pgtables, zap_pte_range, __page_set_anon_rmap (mm/memory.c,
mm/rmap.c). Which disagreements are findings of which rule, the rules say (PTE-ORPHAN, PTE-PERM, PTE-KERNEL,
PTE-REMAP).
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE, PteState
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from vmaforensics.columns.types import I32, I64, U32, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes
    from vmaforensics.views.views import Views
    from vmaforensics.views.vmas.files import FileTable
    from vmaforensics.views.vmas.vmas import Vmas


class Mark(IntFlag):
    """A way in which an entry disagrees; a bit of the words of :func:`entry_marks`."""

    NO_VMA = 1 << 0
    EXECUTABLE = 1 << 1
    NOT_EXECUTABLE = 1 << 2
    WRITABLE = 1 << 3
    NOT_USER = 1 << 4
    KERNEL_MEMORY = 1 << 5
    OTHER_ANON_VMA = 1 << 6
    OTHER_ADDRESS = 1 << 7
    OTHER_FILE = 1 << 8
    OTHER_OFFSET = 1 << 9
    NOT_ANONYMOUS = 1 << 10
    FREE_MEMORY = 1 << 11

    @property
    def short(self) -> str:
        """The disagreement in a few words."""
        return _WORDS[self][0]

    @property
    def sentence(self) -> str:
        """The disagreement as the rest of a sentence that begins with a range of addresses."""
        return _WORDS[self][1]


_WORDS: Final = {
    Mark.NO_VMA: ("in no area", "is mapped outside every VMA of the process"),
    Mark.EXECUTABLE: ("executable, its area is not", "can be executed, though its VMA is not executable"),
    Mark.NOT_EXECUTABLE: ("not executable, its area is", "cannot be executed, though its VMA is executable"),
    Mark.WRITABLE: ("writable, its area is not", "can be written, though its VMA is not writable"),
    Mark.NOT_USER: ("not for user mode", "is mapped for the kernel only, in a user VMA"),
    Mark.KERNEL_MEMORY: ("kernel memory", "leads to the kernel's own memory (slab or page table)"),
    Mark.OTHER_ANON_VMA: ("page of another anon_vma", "leads to an anonymous page of another anon_vma"),
    Mark.OTHER_ADDRESS: ("page of another address", "leads to an anonymous page that belongs at another address"),
    Mark.OTHER_FILE: ("page of another file", "leads to a page of another file than its VMA maps"),
    Mark.OTHER_OFFSET: (
        "page from elsewhere in the file",
        "leads to a page from another place of the file than its VMA maps there",
    ),
    Mark.NOT_ANONYMOUS: (
        "page of a file in an anonymous area",
        "leads to a page that is not anonymous, in an anonymous VMA",
    ),
    Mark.FREE_MEMORY: ("free memory", "leads to a page that nobody holds: the kernel may use it for anything"),
}


def entry_marks(views: Views, ptes: Ptes) -> U32:
    """For each of some page-table entries a word of :class:`Mark` bits; 0 where nothing disagrees."""
    view = views.page_tables
    if view is None or not len(ptes):
        return np.zeros(len(ptes), np.uint32)
    # There may be millions of entries: what a VMA says is worked out once per VMA, and only columns are taken.
    words: U32 = np.where(ptes.range_row < 0, np.uint32(Mark.NO_VMA), np.uint32(0))
    vma = values_at(view.ranges.vma_row, ptes.range_row, -1).astype(np.int64)
    claimed = np.flatnonzero(_claims(views, view, ptes, vma))
    words[claimed] |= _permission_marks(views, ptes, claimed, vma[claimed])
    leads = claimed[ptes.page_row[claimed] >= 0]
    words[leads] |= _page_marks(views, view, ptes, leads, vma[leads])
    return words


def mark_texts(word: int) -> tuple[str, ...]:
    """The marks of a word that :func:`entry_marks` made, in a few words each."""
    return tuple(mark.short for mark in Mark if word & mark)


def _claims(views: Views, view: PageTablesView, ptes: Ptes, vma: I64) -> Bools:
    """Which entries lie in a VMA by its own words too? What an index only says to be there says nothing of them."""
    vmas = views.vmas
    own, fits = claimed_ranges(views, view)
    claims: Bools = values_at(own & fits, ptes.range_row)
    doubtful = np.flatnonzero(values_at(own & ~fits, ptes.range_row))
    va, row = ptes.va[doubtful], vma[doubtful]
    claims[doubtful] = (vmas.start[row] <= va) & (va < vmas.end[row])
    return claims


def claimed_ranges(views: Views, view: PageTablesView) -> tuple[Bools, Bools]:
    """Of each of ``view.ranges``: is its VMA one of that mm by its own words, and does it have all of the range?"""
    vmas, ranges = views.vmas, view.ranges
    own = values_at(vmas.mm, ranges.vma_row) == values_at(views.mms.mm, ranges.mm_row)
    own &= values_at(vmas.ok, ranges.vma_row)
    fits = (values_at(vmas.start, ranges.vma_row) <= ranges.start) & (ranges.end <= values_at(vmas.end, ranges.vma_row))
    return own, fits


def judged_vmas(vmas: Vmas, files: FileTable) -> tuple[Bools, Bools]:
    """Which VMAs have pages of their file, and which have anonymous ones; pages of devices, sockets and rings are the
    driver's own and name nobody."""
    regular = values_at(files.rows.regular & files.rows.ok, vmas.file_row)
    in_file = regular & np.isin(vmas.kind, (Kind.FILE, Kind.SHARED_MEMORY))
    anonymous: Bools = (vmas.kind == Kind.ANONYMOUS) & (vmas.file == 0)
    return in_file, anonymous


def _permission_marks(views: Views, ptes: Ptes, entry: NDArray[np.intp], vma: I64) -> U32:
    """Does each entry (row of ``ptes``) allow what its VMA (row of ``vmas``) allows?"""
    allow = ptes.allow[entry]
    live = ptes.state[entry] == PteState.PRESENT
    execute, write = (allow & ALLOW_EXECUTE) != 0, (allow & ALLOW_WRITE) != 0
    may_execute, may_write = (
        ((views.vmas.flags & np.uint64(bit)) != 0)[vma] for bit in (flags.VM_EXEC, flags.VM_WRITE)
    )
    return _words(
        {
            Mark.EXECUTABLE: live & execute & ~may_execute,
            Mark.NOT_EXECUTABLE: live & ~execute & may_execute,
            Mark.WRITABLE: live & write & ~may_write,
            Mark.NOT_USER: live & ((allow & ALLOW_USER) == 0),
        }
    )


def _page_marks(views: Views, view: PageTablesView, ptes: Ptes, entry: NDArray[np.intp], vma: I64) -> U32:
    """Does the page behind each entry (row of ``ptes``) lead back to the VMA (row of ``vmas``) it is mapped in?"""
    vmas, files, pages = views.vmas, views.files, view.pages
    if files is None or not len(entry):
        return np.zeros(len(entry), np.uint32)
    page = ptes.page_row[entry]
    in_file, anonymous = (which[vma] for which in judged_vmas(vmas, files))
    seen = pages.ok[page] & (pages.pfn[page] == ptes.pfn[entry])
    kernel_own = pages.kernel_own[page]
    # What is being moved is frozen; drivers map parts of larger pages, of which the first alone is counted.
    held = (ptes.state[entry] == PteState.PRESENT) & ((vmas.flags & np.uint64(flags.VM_DEVICE)) == 0)[vma]
    judged = seen & (in_file | anonymous) & ~pages.ksm[page] & ~kernel_own
    offset = views.arch.pages(ptes.va[entry] - vmas.start[vma])
    index, anon = pages.index[page], pages.anon[page]
    foreign = anon & _of_another_family(views, view, page, vma)
    other = ~anon & in_file & (pages.mapping[page] != values_at(files.rows.mapping, vmas.file_row)[vma])
    return _words(
        {
            Mark.KERNEL_MEMORY: seen & kernel_own,
            Mark.FREE_MEMORY: seen & ~kernel_own & held & (pages.refcount[page] == 0),
            Mark.OTHER_ANON_VMA: judged & foreign,
            Mark.OTHER_ADDRESS: judged & anon & ~foreign & (index != vmas.anon_pgoff[vma] + offset),
            Mark.OTHER_FILE: judged & other,
            Mark.OTHER_OFFSET: judged & ~anon & in_file & ~other & (index != vmas.pgoff[vma] + offset),
            Mark.NOT_ANONYMOUS: judged & ~anon & anonymous,
        }
    )


def _of_another_family(views: Views, view: PageTablesView, page: I32, vma: I64) -> Bools:
    """Has the anon_vma that each page names another root than that of the VMA (row of ``vmas``), or is it no anon_vma?

    What lies in pages that are not in the dump is no witness. There may be millions of pages: most name the anon_vma of
    their VMA, whose root is looked up once per VMA.
    """
    roots, own = view.anon_roots, views.vmas.anon_vma
    named = view.pages.anon_vmas()[page]
    vma_root = roots.roots_of(own)[vma] if len(vma) > len(own) else roots.roots_of(own[vma])
    root = vma_root.copy()
    others = np.flatnonzero(named != own[vma])
    root[others] = roots.roots_of(named[others])
    foreign: Bools = (root == 0) | (root != vma_root)
    if roots.lost.any():
        foreign &= ~roots.lost_of(own)[vma] & ~roots.lost_of(named)
    return foreign


def _words(marks: Mapping[Mark, Bools]) -> U32:
    """One word for each row: the marks that hold there."""
    words = np.zeros(len(next(iter(marks.values()))), np.uint32)
    for mark, holds in marks.items():
        words[holds] |= np.uint32(mark)
    return words
