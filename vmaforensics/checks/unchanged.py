"""VMAs that were the same from one reading to another: by the count of changes, because their process slept, or because
they are its program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.held import held
from vmaforensics.checks.of_program import OfProgram
from vmaforensics.checks.reading import Reading, Span, rested

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
        self._of_program = OfProgram(context, self._reading)

    def through(self, vmas: Vmas, word: U64) -> Bools:
        """Was each of ``vmas`` the same when the word at a physical address was read and when itself was?"""
        same = self._slept(vmas, word) | self._of_program.through(vmas, word)
        if self._held is not None:
            same |= self._held.through(vmas.vma, word)
        return same

    def _slept(self, vmas: Vmas, word: U64) -> Bools:
        places = self._places.each(vmas.vma)
        at = [self._times.at(places), self._times.at(word)]
        first, began = (np.minimum(getattr(at[0], name), getattr(at[1], name)) for name in ("earliest", "time"))
        ended, by = (np.maximum(getattr(at[0], name), getattr(at[1], name)) for name in ("time", "by"))
        last = np.maximum(places, word)
        spans = map(Span, *(part.tolist() for part in (first, began, ended, by, last)))
        rests = [self._reading.rest(mm) for mm in vmas.mm.tolist()]
        fine = [
            rest is not None and rested(rest, span, self._times.begun) for rest, span in zip(rests, spans, strict=True)
        ]
        return np.array(fine, np.bool_)


def unchanged(context: Context) -> Unchanged | None:
    """None where the machine stood still or the order of reading is not known. Ask for it with ``context.shared``."""
    acquisition = context.acquisition
    if not acquisition.live or acquisition.times is None or acquisition.clocks is None:
        return None
    return Unchanged(context)
