"""VMAs that a reverse map leads to and no index of their own memory map: taken out of it by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.reverse_maps.rmap_vmas import rmap_vmas
from vmaforensics.columns.lookup import is_in, rows_of, sort_order
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reverse_maps.rmap_vmas import RmapVmas
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import Bools

# What the kernel's own marks of an attached VMA look like (include/linux/mmap_lock.h, 6.15 and later).
_ATTACHED: Final = 0x3FFFFFFF


class HiddenVmas(NamedTuple):
    """For each row of ``RmapView.vmas``."""

    hidden: Bools  # of an address space in use whose indices were read whole, and in none of them
    by_file: Bools  # is in an i_mmap
    by_anon: Bools  # is in the tree of an anon_vma
    detached: Bools  # has the kernel's own mark of a VMA in no index


def hidden_vmas(vmas: RmapVmas) -> HiddenVmas:
    """Which VMAs of the reverse maps no index holds, and what leads to them."""
    rmap, rows = vmas.rmap, vmas.rmap.vmas
    return HiddenVmas(
        hidden=rows.ok & vmas.live & vmas.index_whole & ~vmas.listed,
        by_file=is_in(rows.vma, rmap.file_nodes.vma),
        by_anon=is_in(rows.vma, rmap.anon_nodes.vma),
        detached=rows.detached | ((rows.refcnt >= 0) & ((rows.refcnt & _ATTACHED) == 0)),
    )


def hidden_findings(context: Context, rule: Rule, view: View) -> Iterator[Finding]:
    """One finding for each address space with hidden VMAs that the trees of ``view`` lead to.

    A VMA that both kinds of trees lead to is a finding of the file's.
    """
    vmas = context.shared(rmap_vmas)
    if vmas is None:
        return
    rmap, found = vmas.rmap, hidden_vmas(vmas)
    nodes, reached = (
        (rmap.file_nodes, found.by_file)
        if view is View.FILE_RMAP
        else (rmap.anon_nodes, found.by_anon & ~found.by_file)
    )
    rows = np.flatnonzero(found.hidden & reached)
    order = sort_order(nodes.vma)
    node = order[rows_of(nodes.vma[order], rmap.vmas.vma[rows])] if len(order) else order

    def evidence(at: int) -> Evidence:
        row = int(rows[at])
        also = " and in an anon_vma tree" if view is View.FILE_RMAP and found.by_anon[row] else ""
        mark = ", marked detached" if found.detached[row] else ""
        return Evidence(
            what=f"{vmas.text(row)}{mark} is in the {view.label} tree of {int(nodes.tree[node[at]]):#x}{also}, "
            f"the {context.index.label} does not hold it",
            view=view.label,
            address=int(nodes.slot[node[at]]),
            found=f"{int(rmap.vmas.vma[row]):#x}",
        )

    def title(at: int) -> str:
        return f"{vmas.text(int(rows[at]))} is hidden from the {context.index.label}, {view.label} leads to it"

    yield from vmas.findings(rule, rows, evidence, title)
