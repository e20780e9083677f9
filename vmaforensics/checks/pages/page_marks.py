"""Where a page-table entry disagrees with the area that claims it, entry by entry.

Every entry of the user half lies in an area, allows what the area allows and no more, and leads to a page that names
the area's own file or anon_vma at the right offset: free_pgtables, zap_pte_range, __page_set_anon_rmap (mm/memory.c,
mm/rmap.c). What of that is a finding, :mod:`vmaforensics.checks.pages.page_tables` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE, PteState
from vmaforensics.checks import rules
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.checks.finding import Rule
    from vmaforensics.views.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One way to disagree: in a few words, and as the end of a sentence that a finding begins with a range."""

    rule: Rule
    short: str
    said: str


def _mark(rule: Rule, short: str, said: str) -> Mark:
    return Mark(rule=rule, short=short, said=said)


MARKS: tuple[Mark, ...] = (
    _mark(rules.PTE_ORPHAN, "in no area", "is mapped outside every area of the process"),
    _mark(rules.PTE_PERM, "executable, its area is not", "can be executed, though its area is not executable"),
    _mark(rules.PTE_PERM, "not executable, its area is", "cannot be executed, though its area is executable"),
    _mark(rules.PTE_PERM, "writable, its area is not", "can be written, though its area is not writable"),
    _mark(rules.PTE_PERM, "not for user mode", "is mapped for the kernel only, in a user area"),
    _mark(rules.PTE_KERNEL, "kernel memory", "leads to the kernel's own memory (slab or page table)"),
    _mark(rules.PTE_REMAP, "page of another anon_vma", "leads to an anonymous page of another anon_vma"),
    _mark(rules.PTE_REMAP, "page of another address", "leads to an anonymous page that belongs at another address"),
    _mark(rules.PTE_REMAP, "page of another file", "leads to a page of another file than its area maps"),
    _mark(
        rules.PTE_REMAP,
        "page from elsewhere in the file",
        "leads to a page from another place of the file than its area maps there",
    ),
    _mark(
        rules.PTE_REMAP,
        "page of a file in an anonymous area",
        "leads to a page that is not anonymous, in an anonymous area",
    ),
)


def entry_marks(views: Views, rows: NDArray[np.intp]) -> NDArray[np.uint32]:
    """For each of ``rows`` of the page-table entries a word whose bit i is set where ``MARKS[i]`` holds."""
    view, vmas = views.page_tables, views.vmas
    words = np.zeros(len(rows), np.uint32)
    if view is None or not len(rows):
        return words
    # There may be millions of entries: what an area says is worked out once per area, and only columns are taken.
    area = view.ptes["range_row"][rows]
    words[area < 0] = 1
    at = np.flatnonzero((area >= 0) & (view.ranges["vma_row"][area] >= 0)) if len(view.ranges) else rows[:0]
    vma = view.ranges["vma_row"][area[at]]
    at, vma = at[vmas["ok"][vma]], vma[vmas["ok"][vma]]
    allow = view.ptes["allow"][rows[at]]
    live = view.ptes["state"][rows[at]] == PteState.PRESENT
    execute, write = (allow & ALLOW_EXECUTE) != 0, (allow & ALLOW_WRITE) != 0
    may_execute, may_write = (((vmas["flags"] & np.uint64(bit)) != 0)[vma] for bit in (flags.VM_EXEC, flags.VM_WRITE))
    _set(words, 1, at, live & execute & ~may_execute)
    _set(words, 2, at, live & ~execute & may_execute)
    _set(words, 3, at, live & write & ~may_write)
    _set(words, 4, at, live & ((allow & ALLOW_USER) == 0))
    page = view.ptes["page_row"][rows[at]]
    led = page >= 0
    _leads(views, words, at[led], rows[at[led]], vma[led], page[led])
    return words


def _leads(
    views: Views,
    words: NDArray[np.uint32],
    at: NDArray[np.intp],
    entry: NDArray[np.intp],
    vma: NDArray[np.int64],
    page: NDArray[np.int64],
) -> None:
    """Does each page lead back to the area it is mapped in? ``at`` are the places in ``words``."""
    view, vmas, files = views.page_tables, views.vmas, views.files
    if view is None or files is None or not len(at):
        return
    pages, file_row = view.pages, vmas["file_row"]
    # Pages of devices, sockets and rings are the driver's own and name nobody.
    regular = (file_row >= 0) & values_at(files.rows.regular & files.rows.ok, file_row)
    in_file = (regular & np.isin(vmas["kind"], (Kind.FILE, Kind.SHARED_MEMORY)))[vma]
    anonymous = ((vmas["kind"] == Kind.ANONYMOUS) & (vmas["file"] == 0))[vma]
    seen = pages["ok"][page] & (pages["pfn"][page] == view.ptes["pfn"][entry])
    kernel_own = pages["kernel_own"][page]
    judged = seen & (in_file | anonymous) & ~pages["ksm"][page] & ~kernel_own
    offset = (view.ptes["va"][entry] - vmas["start"][vma]) >> np.uint64(view.arch.page_shift)
    index, anon, root = pages["index"][page], pages["anon"][page], view.anon_roots.roots_of(pages.anon_vmas()[page])
    foreign = anon & ((root == 0) | (root != view.anon_roots.roots_of(vmas.anon_vma[vma])))
    other = ~anon & in_file & (pages["mapping"][page] != values_at(files.rows.mapping, file_row)[vma])
    _set(words, 5, at, seen & kernel_own)
    _set(words, 6, at, judged & foreign)
    _set(words, 7, at, judged & anon & ~foreign & (index != vmas["anon_pgoff"][vma] + offset))
    _set(words, 8, at, judged & other)
    _set(words, 9, at, judged & ~anon & in_file & ~other & (index != vmas["pgoff"][vma] + offset))
    _set(words, 10, at, judged & ~anon & anonymous)


def _set(words: NDArray[np.uint32], bit: int, at: NDArray[np.intp], which: NDArray[np.bool_]) -> None:
    words[at[which]] |= np.uint32(1 << bit)


def told(word: int) -> tuple[str, ...]:
    """The marks of a word that :func:`entry_marks` made, in a few words each."""
    return tuple(mark.short for bit, mark in enumerate(MARKS) if word >> bit & 1)
