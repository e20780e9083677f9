"""Addresses as the document holds them, read, and written for people."""

from __future__ import annotations

from vmaforensics.words.amounts import amount

_TOP = 1 << 64


def number(text: str | None) -> int | None:
    """The value of a hexadecimal string. None if it is no such string or above 64 bits: a document that was
    saved may hold anything."""
    if text is None or len(text) > 20:
        return None
    try:
        value = int(text, 16)
    except ValueError:
        return None
    return value if 0 <= value <= _TOP else None


def extent(start: str | None, end: str | None) -> str:
    """Size of a range in words; empty where it has none."""
    low, high = number(start), number(end)
    return amount(high - low) if low is not None and high is not None and high > low else ""


def short(text: str, most: int) -> str:
    """At most ``most`` characters; an ellipsis tells that there is more."""
    return text if len(text) <= most else text[: most - 1] + "…"


def tail(name: str, most: int) -> str:
    """What tells a name from others where room is short: of a path its last part."""
    if name.startswith("/"):
        name = name.rstrip("/").rpartition("/")[2] or name
    return short(name, most)
