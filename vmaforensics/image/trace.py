"""Which pages of a memory reads have asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64

_FLAGS = 1 << 28  # pages that a flag is kept for: 1 TiB; a header may name addresses up to 2**52, so the rest is a list


class Trace:
    """The pages up to ``top``, a physical address, that were asked for; a page has ``1 << shift`` bytes."""

    def __init__(self, top: int, shift: int) -> None:
        self._shift, self._top = np.uint64(shift), np.uint64(top >> shift)
        self._flags = np.zeros(min((top >> shift) + 1, _FLAGS), np.bool_)
        self._high: list[U64] = []

    def add(self, pas: U64) -> None:
        """Add the pages of physical addresses."""
        pfns = pas >> self._shift
        low = pfns < np.uint64(len(self._flags))
        self._flags[pfns[low].astype(np.intp)] = True
        if len(self._flags) == _FLAGS and not low.all():
            high = pfns[~low]
            self._high.append(distinct(high[high <= self._top]))
            if len(self._high) > 64:
                self._merged()

    def pfns(self) -> U64:
        """Page frame numbers, sorted; those above the top are left out."""
        return np.concatenate([np.flatnonzero(self._flags).astype(np.uint64), self._merged()])

    def _merged(self) -> U64:
        if not self._high:
            return np.zeros(0, np.uint64)
        self._high = [distinct(np.concatenate(self._high))]
        return self._high[0]
