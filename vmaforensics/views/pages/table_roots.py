"""Whose the top-level page table of each address space is, by its ``struct page``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.pages.page_types import PageReader

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms


@table()
class TableRoots(Table):
    """A row for each row of a table of mms."""

    mm: U64
    ok: Bools  # the owner was read
    word: U64  # address of pt_mm in the struct page, or ptdesc from 6.7 on, of the frame of mm->pgd
    owner: U64  # mm_struct that it names


def read_table_roots(kernel: Kernel, mms: Mms) -> TableRoots | None:
    """Read ``pt_mm`` (pgd_set_mm, arch/x86/mm/pgtable.c) for each mm; None for a kernel without that member.

    Raises :class:`KernelNotFoundError` where struct pages cannot be found.
    """
    struct = "ptdesc" if kernel.has("ptdesc", "pt_mm") else "page"
    if not kernel.has(struct, "pt_mm"):
        return None
    reader = PageReader(kernel)
    pas, _, mapped = kernel.space.translate(mms.pgd)
    with np.errstate(over="ignore"):
        pages = reader.base + kernel.arch.pages(pas) * np.uint64(reader.size)
    owner, ok = kernel.gather_member(struct, "pt_mm", pages)
    word = pages + np.uint64(kernel.offset(struct, "pt_mm"))
    return TableRoots(mm=mms.mm, ok=ok & mapped & mms.ok & (mms.pgd != 0), word=word, owner=owner)
