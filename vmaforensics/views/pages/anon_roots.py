"""The root of the family of each anon_vma: what anonymous pages and the VMAs they belong to have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.columns.lookup import distinct, rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64, Bools

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.mapped_pages import Pages
    from vmaforensics.views.vmas.vmas import Vmas


@table(struct="anon_vma")
class AnonRoots(Table):
    """A row is an anon_vma that a page or a VMA names, ascending (struct anon_vma, include/linux/rmap.h)."""

    anon_vma: U64  # its address
    root: U64 = member("root")  # 0 where it could not be read
    lost: Bools  # it lies in a page that is not in the dump

    def roots_of(self, anon_vmas: U64) -> U64:
        """Root of each anon_vma, 0 for none."""
        return values_at(self.root, rows_of(self.anon_vma, anon_vmas))

    def lost_of(self, anon_vmas: U64) -> Bools:
        """Which anon_vmas lie in pages that are not in the dump."""
        return values_at(self.lost, rows_of(self.anon_vma, anon_vmas))


def read_anon_roots(kernel: Kernel, pages: Pages, vmas: Vmas) -> AnonRoots:
    """The anon_vmas that anonymous ``pages`` and ``vmas`` name."""
    addresses = distinct(pages.anon_vmas(), vmas.anon_vma)
    addresses = addresses[addresses != 0]
    rows, ok = kernel.gather(AnonRoots, addresses)
    rows.anon_vma[:] = addresses
    rows.lost[~ok] = kernel.space.translate(addresses[~ok]).mapped
    return rows
