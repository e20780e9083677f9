"""Where a page-table entry disagrees with the area that claims it: the marks of ``vmaforensics pages``.

The same comparisons as PTE-ORPHAN, PTE-PERM, PTE-KERNEL and PTE-REMAP (checks/page_tables.py), told of each
entry; that module says why each must hold, and decides what is a finding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel import paging
from vmaforensics.views import flags
from vmaforensics.views.page_tables import PteState
from vmaforensics.views.tables import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.views.tables import Views

MARKS = (
    "in no area",
    "executable, its area is not",
    "not executable, its area is",
    "writable, its area is not",
    "not for user mode",
    "kernel memory",
    "page of another anon_vma",
    "page of another address",
    "page of another file",
    "page from elsewhere in the file",
    "page of a file in an anonymous area",
)


def entry_marks(views: Views, rows: NDArray[np.intp]) -> NDArray[np.uint32]:
    """For each of ``rows`` of the page-table entries a word whose bit i is set where ``MARKS[i]`` holds."""
    view, files = views.page_tables, views.files
    words = np.zeros(len(rows), np.uint32)
    if view is None or not len(rows):
        return words
    ptes = view.ptes[rows]
    covered = ptes["area"] >= 0
    vma_row = view.areas["vma_row"][ptes["area"]] if len(view.areas) else np.full(len(rows), -1)
    vma = views.vmas[vma_row] if len(views.vmas) else np.zeros(len(rows), views.vmas.dtype)
    seen = covered & (vma_row >= 0) & vma["ok"]
    live = seen & (ptes["state"] == PteState.PRESENT)
    execute, may_execute = (ptes["allow"] & paging.ALLOW_EXECUTE) != 0, _has(vma, flags.VM_EXEC)
    write, may_write = (ptes["allow"] & paging.ALLOW_WRITE) != 0, _has(vma, flags.VM_WRITE)
    user = (ptes["allow"] & paging.ALLOW_USER) != 0
    found = [~covered, live & execute & ~may_execute, live & ~execute & may_execute, live & write & ~may_write]
    found.append(live & ~user)
    if len(view.pages.rows):
        page = view.pages.rows[ptes["page"]]
        led = seen & (ptes["page"] >= 0) & page["ok"]
        anon = page["anon"]
        place = (ptes["va"] - vma["start"]) >> np.uint64(12)
        regular, mapping = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.uint64)
        if files is not None and len(files.rows):
            file = files.rows[vma["file_row"]]
            regular = (vma["file_row"] >= 0) & file["ok"] & file["regular"]
            mapping = file["mapping"]
        in_file = regular & np.isin(vma["kind"], (Kind.FILE, Kind.SHARED_MEMORY))
        anonymous = (vma["kind"] == Kind.ANONYMOUS) & (vma["file"] == 0)
        judged = led & (in_file | anonymous) & ~page["ksm"] & ~page["slab"]
        root, own = view.page_root[ptes["page"]], view.vma_root[vma_row]
        foreign = anon & ((root == 0) | (root != own))
        other = ~anon & in_file & (page["mapping"] != mapping)
        found += [
            led & page["slab"],
            judged & foreign,
            judged & anon & ~foreign & (page["index"] != vma["anon_pgoff"] + place),
            judged & other,
            judged & ~anon & in_file & ~other & (page["index"] != vma["pgoff"] + place),
            judged & ~anon & anonymous,
        ]
    for bit, which in enumerate(found):
        words |= which.astype(np.uint32) << np.uint32(bit)
    return words


def told(word: int) -> tuple[str, ...]:
    """The marks of a word that :func:`entry_marks` made."""
    return tuple(text for bit, text in enumerate(MARKS) if word >> bit & 1)


def _has(vma: NDArray[np.void], flag: int) -> NDArray[np.bool_]:
    answer: NDArray[np.bool_] = (vma["flags"] & np.uint64(flag)) != 0
    return answer
