"""VMAs that were the same from one reading to another: by the count of changes, or because their process slept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.held import held
from vmaforensics.checks.reading import Reading

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.views.vmas.vmas import Vmas


class Unchanged:
    """To be had with :func:`unchanged`."""

    def __init__(self, context: Context) -> None:
        clocks, times = context.acquisition.clocks, context.acquisition.times
        assert clocks is not None and times is not None
        self._views, self._times, self._places = context.views, times, clocks.places
        self._held = context.shared(held)
        self._reading = Reading(context.views, clocks, times)
        self._rests: dict[int, tuple[int, int]] = {}  # by mm: when its threads last ran, up to when that is known

    def through(self, vmas: Vmas, word: U64) -> Bools:
        """Was each of ``vmas`` the same when the word at a physical address was read and when itself was?"""
        same = self._slept(vmas, word)
        if self._held is not None:
            same |= self._held.through(vmas.vma, word)
        return same

    def _slept(self, vmas: Vmas, word: U64) -> Bools:
        rests = np.array([self._rest(mm) for mm in vmas.mm.tolist()], np.int64).reshape(-1, 2)
        ran, known = rests[:, 0], rests[:, 1]
        at = [self._times.at(places) for places in (self._places.each(vmas.vma), word)]
        first = np.minimum(at[0].earliest, at[1].earliest)
        last, by = (np.maximum(getattr(at[0], name), getattr(at[1], name)) for name in ("latest", "by"))
        slept = (known >= last) | ((ran < self._times.start) & (known - ran >= by - known))
        fine: Bools = (ran > 0) & (ran < first) & slept
        return fine

    def _rest(self, mm: int) -> tuple[int, int]:
        if mm not in self._rests:
            rest = self._reading.rest(mm)
            self._rests[mm] = (0, 0) if rest is None else (rest.ran, rest.known)
        return self._rests[mm]


def unchanged(context: Context) -> Unchanged | None:
    """None where the machine stood still or the order of reading is not known. Ask for it with ``context.shared``."""
    acquisition = context.acquisition
    if not acquisition.live or acquisition.times is None or acquisition.clocks is None:
        return None
    return Unchanged(context)
