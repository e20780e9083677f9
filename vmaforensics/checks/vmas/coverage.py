"""Does any area hold this address? Many addresses of many address spaces at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context

_PAGE_SHIFT = np.uint64(12)
# Pages of user space have 45 bits at most (five levels: 57 bits of address, the upper half is the kernel's).
_MM_SHIFT = np.uint64(45)
_TOP = np.uint64(1 << 57)
_MOST_MMS = 1 << 19


class Cover:
    """The areas of all index views together, by address space and page.

    An area counts with its index range and with its own bounds, where they differ: an address is outside
    only if no record says otherwise.
    """

    def __init__(self, context: Context) -> None:
        self._views = context.views
        parts: list[tuple[NDArray[np.uint64], ...]] = []
        for rows in context.views.regions().values():
            vmas = context.views.vmas[context.views.vma_rows(rows["vma"])]
            grows = vmas["ok"] & ((vmas["flags"] & np.uint64(flags.VM_GROWSDOWN)) != 0)
            parts.append((rows["mm"], rows["start"], rows["end"], grows))
            own = vmas["ok"] & (vmas["mm"] == rows["mm"])
            own &= (vmas["start"] != rows["start"]) | (vmas["end"] != rows["end"])
            parts.append((rows["mm"][own], vmas["start"][own], vmas["end"][own], grows[own]))
        mm, start, end, grows = (np.concatenate([part[column] for part in parts]) for column in range(4))
        row = self._views.mm_rows(mm)
        known = (row >= 0) & (row < _MOST_MMS)
        low = _keys(row, start)
        high = _keys(row, np.maximum(end, np.uint64(1)) - np.uint64(1))  # the last page, inclusive
        order = np.argsort(low, kind="stable")
        order = order[known[order] & (high[order] >= low[order])]
        self._low, self._grows = low[order], grows[order]
        # Highest page so far: areas of a tampered map may lie in each other.
        self._reach = np.maximum.accumulate(high[order]) if len(order) else high[order]
        whole = context.views.mms["ok"].copy()
        for view in context.views.regions():
            whole &= context.decoded(view, context.views.mms["mm"])
        self._whole = whole

    def _keys(self, mm: NDArray[np.uint64], address: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return _keys(self._views.mm_rows(mm), address)

    def whole(self, mm: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Were all index views read whole for these address spaces? Only then is *outside* a fact."""
        row = self._views.mm_rows(mm)
        if not len(self._whole):
            return np.zeros(len(mm), np.bool_)
        answer: NDArray[np.bool_] = (row >= 0) & (row < _MOST_MMS) & self._whole[row]
        return answer

    def holds(self, mm: NDArray[np.uint64], address: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Does an area of ``mm`` hold the page of ``address``? Addresses of the kernel half never are held."""
        if not len(self._low):
            return np.zeros(len(mm), np.bool_)
        key = self._keys(mm, address)
        at = np.searchsorted(self._low, key, "right") - 1
        answer: NDArray[np.bool_] = (at >= 0) & (self._reach[at] >= key) & (address < _TOP)
        return answer

    def gap(self, mm: NDArray[np.uint64], address: NDArray[np.uint64]) -> NDArray[np.int64]:
        """A number for the gap between areas that each address lies in; the same gap, the same number."""
        return np.searchsorted(self._low, self._keys(mm, address), "right")

    def may_grow_to(self, mm: NDArray[np.uint64], address: NDArray[np.uint64], room: int) -> NDArray[np.bool_]:
        """Is the next area above a stack that grows down, at most ``room`` bytes above ``address``?"""
        key = self._keys(mm, address)
        at = np.searchsorted(self._low, key, "right")
        last = max(len(self._low) - 1, 0)
        if not len(self._low):
            return np.zeros(len(mm), np.bool_)
        near = (at <= last) & (self._low[np.minimum(at, last)] - key <= np.uint64(room >> 12))
        answer: NDArray[np.bool_] = near & self._grows[np.minimum(at, last)]
        return answer


def _keys(row: NDArray[np.int64], address: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number that sorts by address space, then by page."""
    page = np.minimum(address, _TOP - np.uint64(1)) >> _PAGE_SHIFT
    return (np.maximum(row, 0).astype(np.uint64) << _MM_SHIFT) | page
