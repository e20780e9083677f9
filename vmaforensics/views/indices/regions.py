"""The VMAs of every address space as an index lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


REGIONS = np.dtype(
    [
        ("mm", np.uint64),
        ("vma", np.uint64),
        ("start", np.uint64),  # as this view says it: the index range of a maple entry, else vm_start
        ("end", np.uint64),  # exclusive
        ("slot", np.uint64),  # address of the word that led to the VMA
        ("order", np.int64),  # position within the mm in this view's own order
        ("vma_row", np.int64),  # row of views.vmas; filled in once they are decoded
    ]
)


def union_of(views: list[NDArray[np.void]]) -> NDArray[np.void]:
    """Rows of several views (dtype ``REGIONS``) with each (mm, VMA) kept once, sorted by mm and start."""
    rows = np.concatenate(views) if views else np.zeros(0, REGIONS)
    rows = rows[np.lexsort((rows["vma"], rows["start"], rows["mm"]))]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (rows["mm"][1:] != rows["mm"][:-1]) | (rows["vma"][1:] != rows["vma"][:-1])
    return rows[first]
