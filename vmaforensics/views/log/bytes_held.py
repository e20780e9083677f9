"""A range of the kernel's memory of which pages may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.kernel.kernel import Kernel


class BytesHeld(NamedTuple):
    """Bytes, zeros where the image does not hold them."""

    data: bytes
    lost: I64  # for each byte and the end: how many before it are not held

    def held(self, begin: I64, size: I64) -> Bools:
        """Does each range lie within the bytes and is held whole?"""
        within = (begin >= 0) & (size >= 0) & (begin <= len(self.data)) & (size <= len(self.data) - begin)
        first, last = np.where(within, begin, 0), np.where(within, begin + size, 0)
        found: Bools = within & (self.lost[first] == self.lost[last])
        return found


def read_held(kernel: Kernel, address: int, size: int) -> BytesHeld:
    """The ``size`` bytes at a kernel address, a page at a time."""
    page = kernel.memory.page_size
    skip = address % page
    count = -(-(skip + size) // page)
    with np.errstate(over="ignore"):
        pages = np.uint64(address - skip) + np.arange(count, dtype=np.uint64) * np.uint64(page)
    data, ok = kernel.space.gather(pages, page)
    lost = np.zeros(size + 1, np.int64)
    np.cumsum(np.repeat(~ok, page)[skip : skip + size], out=lost[1:])
    return BytesHeld(data.reshape(-1)[skip : skip + size].tobytes(), lost)
