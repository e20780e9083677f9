"""MT-ROOT: another maple tree belongs to the address space than the one it uses.

*Compared:* live root nodes in the slab cache of maple nodes, whose parent word names the tree they are the root of,
with `ma_root` of that tree.

*Guaranteed by:* the parent word of a root is `&mm->mm_mt | 1` (lib/maple_tree.c).
"""

from __future__ import annotations

from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

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
)
