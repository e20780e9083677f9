"""Cells: what one record says of each VMA, as columns. Text is made of them in ``cell_text.py`` only."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U8, U32, U64, Bools

StateWord = Literal["held", "missing", "unread", "none"]


class CellState(IntEnum):
    """What a record says of a VMA."""

    HELD = 0  # it has it
    MISSING = 1  # it was read whole and lacks it, or has it otherwise
    UNREAD = 2  # it could not be read there
    NONE = 3  # it need not have it

    @property
    def word(self) -> StateWord:
        """The state in published documents."""
        return _WORDS[self]


_WORDS: tuple[StateWord, ...] = ("held", "missing", "unread", "none")  # by CellState


@table()
class Cells(Table):
    """Base of the cells of every record: a row for each row of ``ComparedVmas``."""

    state: U8 = column(fill=CellState.NONE)  # CellState


@table()
class IndexCells(Cells):
    """A list or tree of the memory map. A maple tree that has the VMA at another range counts as missing it."""

    slot: U64  # address of the word that leads to the VMA; 0: none does
    other_range: Bools  # the index has bounds of its own, and they are not those of the VMA
    low: U64  # those bounds, [low, high)
    high: U64


@table()
class PageTableCells(Cells):
    """The entries within the VMA's range; none at all is no disagreement."""

    where: U64  # physical address of the first entry; 0: there is none
    mapped: I64  # pages that entries lead to
    swapped: I64  # pages that are in swap


@table()
class SlabCells(Cells):
    """The allocator's account of the ``vm_area_struct``."""

    page: U64  # its slab's struct page; 0: none is known
    free: Bools  # the object is free
    outside: Bools  # it lies in no page of the cache


@table()
class FileCells(Cells):
    """The VMA's node in the ``i_mmap`` of a file."""

    node: U64  # address of the rb_node; 0: there is none
    tree: U64  # the address_space it is in
    other_tree: Bools  # that is not the address_space of the VMA's file


@table()
class AnonCells(Cells):
    """The ``anon_vma_chain`` that links the VMA with its own anon_vma."""

    link: U64  # address of the anon_vma_chain; 0: there is none
    links: I64  # anon_vma_chains of the VMA, those to the anon_vmas of ancestors included
    unowned: Bools  # the VMA has links, but no anon_vma


@table()
class AnchorCells(Cells):
    """User addresses in the VMA that the kernel remembers outside of the memory map."""

    names: U32  # bit n: an address called anchor_cells.NAMES[n] lies in it
