"""What a 64-bit word is before anything is looked up: a number, an error, poison, text, an address of which half."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.words.errors import MAX_ERRNO, error_name

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.columns.types import U8, U64

# Not addresses of user memory either: vm.mmap_min_addr is that much everywhere.
_NUMBERS: Final = 1 << 16
# include/linux/poison.h: bytes that memory is filled with, and offsets from POISON_POINTER_DELTA.
_FILLS: Final = {
    0x6B: "POISON_FREE, what freed objects are filled with: a use after free",
    0x5A: "POISON_INUSE, what objects are filled with that were never written: used uninitialised",
    0xA5: "POISON_END, the end of a slab object's poison",
    0xAA: "PAGE_POISON, what freed pages are filled with",
    0xBB: "SLUB_RED_INACTIVE, the red zone of a free slab object",
    0xCC: "SLUB_RED_ACTIVE, the red zone of a slab object in use, or init memory that was given back",
}
_POISONED: Final = {
    0x100: "LIST_POISON1: next of a list element that was removed",
    0x122: "LIST_POISON2: prev of a list element that was removed",
    0x200: "LIST_POISON2 of older kernels, or a timer's poison",
    0x300: "TIMER_ENTRY_STATIC: a timer set up at compile time",
    0x400: "TAIL_MAPPING: page->mapping of a tail page",
}
_NEAR: Final = 0x80  # bytes that a member lies behind a poisoned pointer
_SHORTEST_TEXT: Final = 7  # more letters than an address has bytes


class Sort(IntEnum):
    """What a word is by its value alone."""

    NUMBER = 0
    ERROR = 1  # ERR_PTR
    POISON = 2
    TEXT = 3
    NON_CANONICAL = 4
    USER = 5
    KERNEL = 6


def sorts_of(arch: Architecture, values: U64) -> U8:
    """The :class:`Sort` of each of ``values``."""
    size = np.uint64((1 << 64) - MAX_ERRNO)
    raw = np.ascontiguousarray(values.astype("<u8")).view(np.uint8).reshape(-1, 8)
    filled = (raw == raw[:, :1]).all(axis=1) & np.isin(raw[:, 0], list(_FILLS))
    with np.errstate(over="ignore"):
        behind = values - np.uint64(arch.poison_base)
    poisoned = np.zeros(len(values), np.bool_)
    for offset in _POISONED:
        poisoned |= (behind >= np.uint64(offset)) & (behind < np.uint64(offset + _NEAR))
    readable = (raw >= 0x20) & (raw < 0x7F)
    text = readable[:, :_SHORTEST_TEXT].all(axis=1) & (readable[:, 7] | (raw[:, 7] == 0))
    canonical = arch.canonical(values)
    kernel = arch.kernel_pointer(values)
    return np.select(
        [values < np.uint64(_NUMBERS), values >= size, filled | poisoned, ~canonical & text, ~canonical, kernel],
        [Sort.NUMBER, Sort.ERROR, Sort.POISON, Sort.TEXT, Sort.NON_CANONICAL, Sort.KERNEL],
        Sort.USER,
    ).astype(np.uint8)


def error_text(value: int) -> str:
    """What ERR_PTR stands for; all bits set may be -1 as well."""
    name = error_name((1 << 64) - value)
    return f"-1, or ERR_PTR(-{name})" if value == (1 << 64) - 1 else f"ERR_PTR(-{name})"


def poison_text(arch: Architecture, value: int) -> str:
    """Which poison a word is."""
    behind = value - arch.poison_base
    for offset, text in sorted(_POISONED.items(), reverse=True):
        if offset <= behind < offset + _NEAR:
            return text if behind == offset else f"{text.partition(':')[0]} + {behind - offset:#x}"
    return _FILLS.get(value & 0xFF, "poison")


def text_of(value: int) -> bytes:
    """The bytes of a word in the order in which they stand in memory, without the NUL behind them."""
    return value.to_bytes(8, "little").rstrip(b"\0")
