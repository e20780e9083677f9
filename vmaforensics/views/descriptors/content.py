"""What the first bytes of a page are."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import U8


class Content(IntEnum):
    """What a page begins with."""

    NONE = 0  # no page is held: empty, or swapped out
    NOT_IN_DUMP = 1
    ZERO = 2
    ELF = 3
    SCRIPT = 4
    TEXT = 5
    OTHER = 6
    UNSEEN = 7  # was not looked at: the file has a path, or a VMA shows it
    CODE = 8  # machine code, by all of the page

    @property
    def label(self) -> str:
        """The content in words."""
        return ("none", "not in the dump", "zeros", "ELF", "script", "text", "other", "not looked at", "machine code")[
            self
        ]


def contents(data: U8) -> U8:
    """The :class:`Content` of pages by their first bytes, shape ``(pages, bytes)``; at least four bytes of each."""
    kinds = np.full(len(data), Content.OTHER, np.uint8)
    printable = ((data >= 0x20) & (data < 0x7F)) | ((data >= 9) & (data <= 13)) | (data >= 0x80)
    behind = np.cumsum(data == 0, axis=1) > 0
    text = (printable | (behind & (data == 0))).all(axis=1) & (data[:, 0] != 0)
    kinds[text] = Content.TEXT
    kinds[text & (data[:, 0] == ord("#")) & (data[:, 1] == ord("!"))] = Content.SCRIPT
    kinds[(data[:, :4] == np.frombuffer(b"\x7fELF", np.uint8)).all(axis=1)] = Content.ELF
    kinds[~data.any(axis=1)] = Content.ZERO
    return kinds
