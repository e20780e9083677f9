"""Memory that an acquisition gave up on: zeros up to the end of a range, where the kernel has something.

LiME reads a range page by page; where a page takes longer than its time-out, the rest of the range is filled with
zeros (LiME, main.c, ``write_range``), and nothing in the file says so. But the kernel knows what it had there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.image.formats.lemon import LemonMemory
from vmaforensics.views.pages.page_types import PageReader, bit_set, type_code
from vmaforensics.words.amounts import pages

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.kernel.kernel import Kernel

_MOST_RANGES = 64
_LEAST = 16  # pages of zeros; fewer are nothing out of the common
_STEP = 1024  # pages looked at once
_FLAG_BITS = 64  # of page->flags; enumerators beyond are page types


def drop_unacquired(kernel: Kernel) -> None:
    """Take zeros at the end of a range of a LiME file out of the image if the kernel had slabs or page tables in them.

    Each such stretch is a line in ``identity.problems``.
    """
    memory = kernel.memory
    if not isinstance(memory, LemonMemory):
        return
    try:
        reader = PageReader(kernel)
    except KernelNotFoundError:
        return
    for start, end in memory.ranges.tolist()[-_MOST_RANGES:]:
        low = zeros_from(memory, start, end)
        page = memory.page_size
        first, last = -(-low // page), end // page
        if last - first < _LEAST or not _in_use(kernel, reader, first, last):
            continue
        memory.drop(low, end)
        kernel.identity.problems.append(
            f"the range of RAM {start:#x}-{end:#x} holds nothing but zeros from {low:#x} on, where the kernel had "
            f"slabs or page tables: {pages(last - first, page)} were not acquired (as when LiME's time-out ran off)"
        )


def zeros_from(memory: LemonMemory, start: int, end: int) -> int:
    """Where the zeros begin that reach to the end of ``[start, end)``, in whole pages."""
    page = memory.page_size
    low = end
    while low > start:
        count = min(_STEP, -(-(low - start) // page))
        pas = np.arange(max(low - count * page, start), low, page, dtype=np.uint64)
        with memory.untraced():
            data, ok = memory.gather(pas, page)
        full = np.flatnonzero(data.any(axis=1) | ~ok)
        if len(full):
            return int(pas[full[-1]]) + page
        low = int(pas[0])
    return start


def _in_use(kernel: Kernel, reader: PageReader, first: int, last: int) -> bool:
    """Whether the kernel had anything but free memory in page frames ``[first, last)``, or has no array of them there:
    a struct page is never all zeros (its map count is -1, mm/mm_init.c ``__init_single_page``)."""
    for low in range(first, last, _STEP):
        pfns = np.arange(low, min(low + _STEP, last), dtype=np.uint64)
        if _used(kernel, reader, pfns).any():
            return True
    return False


def _used(kernel: Kernel, reader: PageReader, pfns: U64) -> Bools:
    rows, ok = reader.read(pfns)
    used: Bools = ok & (rows.flags == 0) & (rows.page_type == 0) & (rows.mapping == 0)
    used |= ~reader.mapped(pfns)
    for name in ("slab", "table"):
        bit, code = kernel.types.constant(f"PG_{name}"), type_code(kernel, name)
        if bit is not None and bit < _FLAG_BITS:
            used |= ok & bit_set(rows.flags, bit)
        elif code is not None:
            used |= ok & code.matches(rows.page_type)
    return used
