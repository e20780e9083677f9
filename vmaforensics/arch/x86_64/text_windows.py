"""Parts of code, by offset from its start: in memory and in the file, and which of them are explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from vmaforensics.arch.reference_text import ReferenceText
    from vmaforensics.columns.types import I64, U8, U32, U64, Bools

RETURN = bytes.fromhex("c3cccccccc")  # what `jmp __x86_return_thunk` becomes where no thunk is needed

_S = TypeVar("_S", bound=np.generic)


class Explained:
    """Bytes of a text that are explained so far: at first those that do not differ."""

    def __init__(self, text: ReferenceText) -> None:
        self.text = text
        self.mask: Bools = text.found == text.linked

    def offsets(self, addresses: U64) -> I64:
        """Addresses in memory as offsets; those before the start are negative."""
        with np.errstate(over="ignore"):
            found: I64 = (addresses - np.uint64(self.text.start)).view(np.int64)
        return found

    def addresses(self, at: I64) -> U64:
        """Offsets as addresses in memory."""
        found: U64 = at.astype(np.uint64) + np.uint64(self.text.start)
        return found

    def fits(self, at: I64, size: int) -> Bools:
        """Which places have so many bytes."""
        found: Bools = (at >= 0) & (at <= len(self.text.found) - size)
        return found

    def within(self, at: I64, size: int) -> I64:
        """Those that do."""
        return at[self.fits(at, size)]

    def changed(self, at: I64, size: int) -> I64:
        """Those where something is not explained yet."""
        at = self.within(at, size)
        return at[~windows(self.mask, at, size).all(axis=1)]

    def inside(self, addresses: U64) -> Bools:
        """Which addresses lie in this text."""
        return self.fits(self.offsets(addresses), 1)

    def holds(self, at: I64, forms: Iterable[bytes]) -> Bools:
        """Which places hold one of ``forms``, all of one length, in memory."""
        found = np.zeros(len(at), np.bool_)
        for form in forms:
            found |= (windows(self.text.found, at, len(form)) == np.frombuffer(form, np.uint8)).all(axis=1)
        return found

    def words(self, data: U8, at: I64) -> U32:
        """The 32-bit word at each place of the text, or of ``data``."""
        return np.ascontiguousarray(windows(data, at, 4)).view("<u4")[:, 0]

    def mark(self, at: I64, size: int) -> None:
        """``size`` bytes from each place on are explained."""
        for place in range(size):
            self.mask[at + place] = True


def windows(data: NDArray[_S], at: I64, size: int) -> NDArray[_S]:
    """``size`` bytes from each place on, which has as many; shape ``(len(at), size)``."""
    if len(data) < size:
        return np.zeros((0, size), data.dtype)
    found: NDArray[_S] = np.lib.stride_tricks.sliding_window_view(data, size)[at]
    return found


def relative_places(text: ReferenceText, section: str) -> I64:
    """Offsets of the places that a section of signed 32-bit distances names; none if the file has no such section."""
    table = text.sections.get(section)
    if table is None:
        return np.zeros(0, np.int64)
    distances = table.data[: len(table.data) // 4 * 4].view("<i4").astype(np.int64)
    here = table.address - (text.start - text.moved)
    return distances + here + np.arange(len(distances)) * 4
