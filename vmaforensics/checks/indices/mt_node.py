"""MT-NODE: maple tree node does not fit its parent.

Kernels with a maple tree.

*Compared:* the parent word of each node with the place it hangs in (`node | slot << 3 | 6`; `&mm->mm_mt | 1` for a
root); a node marked dead (parent word is its own address) that a live one leads to; the depth of each leaf with the
height in `ma_flags`; the type of inner nodes, which record gaps in this tree (`arange_64`).

*Guaranteed by:* `mas_validate_parent_slot` and `mas_validate_child_slot`, `mas_set_height`, `mas_parent_type`
(lib/maple_tree.c).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="MT-NODE",
    title="maple tree node does not fit its parent",
    severity=Severity.HIGH,
    why="Parent words, types and depth of nodes follow from their place; only a write that bypassed the kernel's "
    "tree code breaks them.",
    compares="the parent word of each node with the place it hangs in, nodes marked dead, the depth of each leaf with "
    "the height in ma_flags, the type of inner nodes",
    views=(View.MAPLE,),
    transient="nodes are published, then their children's parent words are rewritten, then old nodes are marked dead "
    "(6.1 marks them first), under the write lock",
    by_hand=(hand.MAPLE, "drgn: hex(prog.read_u64(NODE))  # the parent word"),
    steps=("node", "tree"),
    part=Part.TRACE,
    rank=340,
)
