"""Where bytes of memory lie, and the four states of a byte."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The unit that the contents of images are known by: it divides the pages of every CPU that Linux runs on.
PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT


class PageState(IntEnum):
    """What an image knows about a byte of physical memory; see the design's "four states of a byte"."""

    PRESENT = 0
    ZERO = 1  # the image says explicitly that the page is all zeros
    ABSENT = 2  # RAM whose contents are not in the dump: filtered, truncated or lost
    NOT_RAM = 3


class Placed(NamedTuple):
    """Where items of memory lie."""

    buffer: NDArray[np.uint8]  # one-dimensional
    offsets: NDArray[np.int64]  # in the buffer, of each item; any valid offset where the item is not held
    states: NDArray[np.uint8]  # a PageState for each item


def describe(state: PageState) -> str:
    """``state`` in words that end a sentence beginning with "the page is"."""
    return {
        PageState.PRESENT: "in the image",
        PageState.ZERO: "all zeros",
        PageState.ABSENT: "not in the dump (filtered out, truncated or lost)",
        PageState.NOT_RAM: "outside the RAM the image describes",
    }[state]
