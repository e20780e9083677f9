"""The records of address spaces that are read, by name."""

from __future__ import annotations

from enum import IntEnum


class View(IntEnum):
    """A redundant kernel record of address spaces."""

    TASKS = 0
    LIST = 1
    RBTREE = 2
    MAPLE = 3
    VMA = 4  # the vm_area_struct objects themselves
    COUNTERS = 5
    FILES = 6
    PAGE_TABLES = 7
    PAGES = 8  # struct page / folio
    FILE_RMAP = 9  # i_mmap
    ANON_RMAP = 10  # anon_vma trees
    SLAB = 11
    SOURCES = 12  # who else knows of an mm
    ANCHORS = 13  # code, stack, auxv, registers
    HANDLES = 14  # file descriptors and memory files
    CODE = 15  # of the kernel: its text, tables of functions, modules

    @property
    def label(self) -> str:
        """What people call it."""
        return (
            "task list",
            "vm_next list",
            "rbtree",
            "maple tree",
            "VMA",
            "counters",
            "files",
            "page tables",
            "struct page",
            "i_mmap",
            "anon_vma",
            "slab",
            "mm sources",
            "anchors",
            "descriptors",
            "kernel code",
        )[self]
