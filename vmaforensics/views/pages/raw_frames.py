"""Entries that are marked as raw page frames and lead to RAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import covering_rows
from vmaforensics.kernel.ram import overlaps, system_ram

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.ptes import Ptes


class RawRam:
    """Tells entries of single pages of RAM, but for that of zeros, that are marked as raw page frames (vm_normal_page).

    None, where it is not known which page is that of zeros. RAM is what the kernel calls so: persistent memory may lie
    in what the image has.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._arch = kernel.arch
        zero = kernel.variable("zero_pfn", 8)
        at = np.array([at for at in (kernel.symbols.get("empty_zero_page"),) if at is not None], np.uint64)
        pa, _, mapped = kernel.space.translate(at)
        self._zeros = np.append(kernel.arch.pages(pa[mapped]), np.array([] if zero is None else [zero], np.uint64))
        held: list[tuple[int, int]] = kernel.memory.ranges.tolist()
        ram = overlaps(held, system_ram(kernel.space, kernel.symbols, kernel.types)) or held
        self._ram = kernel.arch.pages(np.array(ram, np.uint64).reshape(-1, 2))

    def rows(self, ptes: Ptes) -> I64:
        """Rows of such entries among ``ptes``."""
        if not len(self._zeros):
            return np.zeros(0, np.int64)
        rows = np.flatnonzero(ptes.special & (ptes.level == 1) & (ptes.state == PteState.PRESENT))
        rows = rows[self._arch.special(ptes.entry[rows]) & ~np.isin(ptes.pfn[rows], self._zeros)]
        return rows[covering_rows(self._ram[:, 0], self._ram[:, 1], ptes.pfn[rows]) >= 0].astype(np.int64)
