"""Taint bits as letters and in words (taint_flags of kernel/panic.c, Documentation/admin-guide/tainted-kernels.rst)."""

from __future__ import annotations

from typing import Final

# By bit: the letter when it is set, and what it says.
TAINTS: Final = (
    ("P", "a proprietary module was loaded"),
    ("F", "a module was loaded by force"),
    ("S", "the CPU or the system is out of specification"),
    ("R", "a module was unloaded by force"),
    ("M", "a machine check happened"),
    ("B", "a bad page, page map or slab object was met"),
    ("U", "a program asked for the taint"),
    ("D", "there was an oops or BUG"),
    ("A", "an ACPI table was overridden"),
    ("W", "a warning was given"),
    ("C", "a staging driver was loaded"),
    ("I", "a bug of the firmware was worked around"),
    ("O", "a module from outside of the kernel's tree was loaded"),
    ("E", "an unsigned module was loaded"),
    ("L", "a soft lock-up happened"),
    ("K", "the kernel was live-patched"),
    ("X", "auxiliary taint, defined by the distribution"),
    ("T", "the kernel was built with randomised structure layouts"),
    ("N", "an in-kernel test was run"),
    ("J", "firmware was changed through fwctl"),
)


def taint_letters(mask: int) -> str:
    """The letters of the bits that are set, as the kernel prints them without its blanks; unknown bits by number.

    >>> taint_letters(1 << 7 | 1 << 9)
    'DW'
    """
    return "".join(_bit(bit)[0] for bit in range(64) if mask >> bit & 1)


def taint_words(mask: int) -> list[str]:
    """A line for each bit that is set.

    >>> taint_words(1 << 9)
    ['W: a warning was given']
    """
    return [f"{letter}: {words}" for bit in range(64) if mask >> bit & 1 for letter, words in [_bit(bit)]]


def _bit(bit: int) -> tuple[str, str]:
    return TAINTS[bit] if bit < len(TAINTS) else (f"[{bit}]", "a bit that is not known here")
