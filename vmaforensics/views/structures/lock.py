"""What is known of a lock; apart from who reads it, since rules and their explanations need no NumPy."""

from __future__ import annotations

from enum import IntEnum


class Lock(IntEnum):
    """State of a lock when the image was taken."""

    FREE = 0
    READ = 1
    WRITE = 2
    UNKNOWN = 3

    @property
    def text(self) -> str:
        """The state in words."""
        return ("free", "read-held", "write-held", "unknown")[self]
