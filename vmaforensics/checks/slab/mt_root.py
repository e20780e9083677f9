"""MT-ROOT: another maple tree belongs to the address space than the one it uses.

*Compared:* live root nodes in the slab cache of maple nodes, whose parent word names the tree they are the root of,
with `ma_root` of that tree.

*Guaranteed by:* the parent word of a root is `&mm->mm_mt | 1` (lib/maple_tree.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import REINDEXES, Part, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="MT-ROOT",
    title="another maple tree belongs to the address space than the one it uses",
    severity=Severity.HIGH,
    why="A live root node points back to the tree it is the root of. If that tree's root is another node, the "
    "whole tree was exchanged by a write that bypassed the kernel's tree code.",
    compares="the parent word of live root nodes in the slab cache, which names their tree, with ma_root of that tree",
    views=(View.MAPLE, View.SLAB),
    transient="a new root is published before the old one is marked dead, under the write lock",
    by_hand=("crash: struct mm_struct.mm_mt MM", "drgn: hex(prog.read_u64(NODE))  # the tree, with bit 0 set"),
    steps=("node", "word", "tree"),
    part=Part.TRACE,
    rank=430,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process in use that a live root node names, and whose ma_root leads elsewhere."""
    sources, mms = context.views.sources, context.views.mms
    if sources is None:
        return
    roots = sources.roots
    mm_row = context.views.mm_rows(roots.mm)
    rows = np.flatnonzero(~roots.current & values_at(mms.users > 0, mm_row))

    def evidence(at: int) -> Evidence:
        return Evidence(
            what="a live maple node says it is the root of this tree; ma_root leads elsewhere",
            view=View.SLAB.label,
            address=int(roots.node[rows[at]]),
            found=f"{int(mms.ma_root[mm_row[rows[at]]]):#x}",
            expected=f"{int(roots.node[rows[at]]):#x}",
        )

    def title(at: int) -> str:
        return "another maple tree of VMAs belongs to this address space than the one it uses"

    yield from context.per_mm(RULE, roots.mm[rows], evidence, title)
