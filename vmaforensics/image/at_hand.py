"""Pages whose place is known: of reads of a few bytes there are thousands, and each looks up where its page lies.

What a read of many does with arrays takes a hundred times as long for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.image.placed import PAGE_SHIFT, PAGE_SIZE, PageState

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vmaforensics.image.placed import Placed

FEW = 64  # items; of more, arrays are as fast
SHORT = 1 << 10  # bytes of an item
_MOST = 1 << 14  # pages
_PRESENT, _ZERO = int(PageState.PRESENT), int(PageState.ZERO)  # a member of an enum is not found as fast as a name
_ZEROS = memoryview(bytes(PAGE_SIZE))


class PagesAtHand:
    """Where pages lie in buffers that stay as they are, until :meth:`forget`; ``locate`` is asked once for each."""

    def __init__(self, locate: Callable[[NDArray[np.uint64], int], Placed]) -> None:
        self._locate = locate
        self._pages: dict[int, memoryview | None] = {}  # by page frame; None: it is not held as a whole

    def forget(self) -> None:
        """What lay somewhere may lie elsewhere now."""
        self._pages.clear()

    def cut(self, pas: list[int], size: int) -> bytearray | None:
        """The ``size`` bytes at each of ``pas``, one behind the other; None if one of them crosses a page, or is of
        a page that is not held as a whole."""
        pages = self._pages
        if len(pages) > _MOST:
            pages.clear()
        fresh = {pfn for pa in pas if (pfn := pa >> PAGE_SHIFT) not in pages}
        if fresh:
            self._find(sorted(fresh))
        found = bytearray()
        for pa in pas:
            page, at = pages.get(pa >> PAGE_SHIFT), pa & (PAGE_SIZE - 1)
            if page is None or at + size > PAGE_SIZE:
                return None
            found += page[at : at + size]
        return found

    def _find(self, pfns: list[int]) -> None:
        buffer, offsets, states = self._locate(np.array(pfns, np.uint64) << np.uint64(PAGE_SHIFT), PAGE_SIZE)
        held = buffer.data
        for pfn, at, state in zip(pfns, offsets.tolist(), states.tolist(), strict=True):
            whole = held[at : at + PAGE_SIZE] if state == _PRESENT else None
            self._pages[pfn] = _ZEROS if state == _ZERO else whole
