"""Sets of kernel addresses that walks have been to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.columns.types import U64, Bools


class AddressSet:
    """A set that grows in small steps: two sorted arrays, the smaller merged into the larger now and then."""

    def __init__(self) -> None:
        self._large = np.zeros(0, np.uint64)
        self._small = np.zeros(0, np.uint64)

    def add(self, addresses: U64) -> U64:
        """Add ``addresses``; returns those that were not in the set before, each once and ascending."""
        fresh = distinct(addresses)
        for known in (self._large, self._small):
            fresh = fresh[rows_of(known, fresh) < 0]
        self._small = np.sort(np.concatenate([self._small, fresh]))
        if len(self._small) > 1024 + len(self._large) // 8:
            self._large = np.sort(np.concatenate([self._large, self._small]))
            self._small = np.zeros(0, np.uint64)
        return fresh

    def all(self) -> U64:
        """Every address of the set, ascending."""
        return np.sort(np.concatenate([self._large, self._small]))


def object_pointer(arch: Architecture, pointers: U64) -> Bools:
    """Can each be the address of a structure with a pointer in it: in the kernel half, and a multiple of 8?"""
    answer: Bools = arch.kernel_pointer(pointers) & ((pointers & np.uint64(7)) == 0)
    return answer
