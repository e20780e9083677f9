"""RMAP-TREE: reverse map violates its own rules.

*Compared:* order, `rb_subtree_last` and parent pointers of the interval trees; `num_active_vmas` of each anon_vma with
the areas in its tree that name it. Told only where no changed area accounts for it.

*Guaranteed by:* include/linux/interval_tree_generic.h, lib/rbtree.c, mm/rmap.c.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="RMAP-TREE",
    title="reverse map violates its own rules",
    severity=Severity.MEDIUM,
    why="Order, recorded last pages, parent pointers and counts of a reverse map follow from its areas. Cutting "
    "an area out by hand leaves those as they were.",
    compares="order, rb_subtree_last and parent pointers of the reverse maps; num_active_vmas of each anon_vma with "
    "the areas in its tree that name it",
    views=(View.FILE_RMAP, View.ANON_RMAP),
    transient="under the lock of the address_space or the anon_vma; where it was write-held, findings are lowered",
    by_hand=(hand.I_MMAP, hand.ANON),
    steps=("word", "area", "file", "anon"),
    part=Part.TRACE,
    rank=390,
)
