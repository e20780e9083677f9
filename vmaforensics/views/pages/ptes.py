"""Leaf entries of page tables as a table, and how they are found by process and address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import composite_key
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I8, I32, I64, U8, U64, Bools

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.arch.interface import Architecture

    Rows = NDArray[np.signedinteger[Any]]


@table()
class Ptes(Table):
    """A row is a leaf entry of the user half of some process's page tables, by mm and address.

    Made by :func:`vmaforensics.views.pages.page_tables.gather_page_tables`.
    """

    mm_row: I32  # row of Views.mms
    level: I8  # 1: maps a page
    state: U8  # PteState
    allow: U8  # ALLOW_* of arch.page_tables, over all levels
    special: Bools  # maps what nobody counts: raw page frames, pages of zeros
    va: U64  # first address it maps
    entry: U64
    where: U64  # physical address of the entry
    pfn: U64  # first frame mapped; 0 if none
    page_row: I32 = column(fill=-1)  # row of PageTablesView.pages, -1 where it leads to no page that is counted
    range_row: I32 = column(fill=-1)  # row of PageTablesView.ranges, -1 where no index has a VMA at the address

    def sizes(self, arch: Architecture) -> U64:
        """Bytes that each entry maps."""
        return arch.span(self.level)

    def pages(self, arch: Architecture) -> I64:
        """Pages that each entry maps."""
        return arch.pages(self.sizes(arch)).astype(np.int64)

    def ends(self, arch: Architecture) -> U64:
        """First address behind what each entry maps."""
        ends: U64 = self.va + self.sizes(arch)
        return ends

    def maps_frames(self) -> Bools:
        """Which entries lead to page frames, whether the CPU may use them or not."""
        mapped: Bools = self.state <= PteState.PROTNONE
        return mapped


def place_keys(arch: Architecture, mm_row: Rows, va: U64) -> U64:
    """A number for each pair of mm and user page that sorts by mm, then by address."""
    return composite_key(mm_row, arch.pages(va), arch.user_page_bits)
