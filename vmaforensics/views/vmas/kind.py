"""What a VMA maps."""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """What a VMA maps, going by its flags, operations and file."""

    UNKNOWN = 0
    ANONYMOUS = 1
    FILE = 2
    SHARED_MEMORY = 3
    HUGETLB = 4
    DEVICE = 5  # device memory or raw page frames
    SPECIAL = 6  # vdso, vvar, uprobes

    @property
    def label(self) -> str:
        """The kind in words."""
        return ("unknown", "anonymous", "file", "shared memory", "hugetlb", "device", "special")[self]
