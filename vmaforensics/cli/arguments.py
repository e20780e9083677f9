"""Arguments that several verbs take."""

from __future__ import annotations

import argparse


def address(text: str) -> int:
    """A hexadecimal address, with 0x or without."""
    try:
        value = int(text, 16)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a hexadecimal address of 64 bits")
    return value
