"""What a value would lead to if a bit or a byte of it were another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.views.objects.explain import explain
from vmaforensics.views.objects.places import Place, find_places
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.slab.any_cache import find_objects
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from vmaforensics.views.objects.explain import Meaning
    from vmaforensics.views.objects.surroundings import Surroundings

_MOST: Final = 16


def own_symbols(surroundings: Surroundings, value: int) -> list[int]:
    """``value`` with one bit changed, where that leads to the kernel's or a module's own code or data.

    To the beginning of a symbol, if any does: data is pointed to so, and functions.
    """
    flips = np.uint64(value) ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    places = find_places(surroundings, flips).places
    own = np.isin(places.place, (Place.SYMBOL, Place.MODULE))
    begin = own & (places.start == flips)
    found: list[int] = flips[begin if begin.any() else own].tolist()
    return found


class Nearly(NamedTuple):
    """What a value would lead to if one byte of it were another."""

    changed: int  # the bits that differ
    meaning: Meaning


def one_byte_off(surroundings: Surroundings, value: int) -> list[Nearly]:
    """The objects in use that ``value`` would lead to with one byte changed, those with fewest bits changed first.

    Of the kernel's and modules' own code and data, what it would lead to with one bit changed.
    """
    kernel = surroundings.kernel
    changes = np.uint64(0) + (
        np.arange(1, 256, dtype=np.uint64)[None, :] << (np.uint64(8) * np.arange(8, dtype=np.uint64)[:, None])
    ).reshape(-1)
    changed = np.uint64(value) ^ changes
    possible = kernel.arch.kernel_pointer(changed) & kernel.arch.canonical(changed)
    changes, changed = changes[possible], changed[possible]
    known = find_objects(kernel, changed, ProblemLog()).places
    at = np.flatnonzero((known.start == changed) & (known.state != State.FREE))
    meanings = explain(surroundings, changed[at])
    found = [Nearly(change, meaning) for change, meaning in zip(changes[at].tolist(), meanings, strict=True)]
    flips = own_symbols(surroundings, value)
    found += [
        Nearly(value ^ flip, meaning)
        for flip, meaning in zip(flips, explain(surroundings, np.array(flips, np.uint64)), strict=True)
    ]
    found.sort(key=lambda nearly: nearly.changed.bit_count())
    return found[:_MOST]
