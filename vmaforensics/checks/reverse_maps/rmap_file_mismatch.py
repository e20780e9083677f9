"""RMAP-FILE-MISMATCH: area shows another file or other pages than its reverse map.

*Compared:* the `i_mmap` tree that an area hangs in with the `address_space` of its `vm_file`; its pages, from
`vm_pgoff` on, with its place in the tree and the last page recorded for its node.

*Guaranteed by:* the trees are keyed by `vm_pgoff` (mm/interval_tree.c); `vm_file` does not change while an area lives.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="RMAP-FILE-MISMATCH",
    title="area shows another file or other pages than its reverse map",
    severity=Severity.HIGH,
    why="vm_file and vm_pgoff are what /proc and most tools print. The reverse map was built from them when the "
    "area was made: where they contradict it, they were changed afterwards, to pass for something else.",
    attack=("T1014", "T1564", "T1036"),
    compares="the i_mmap tree an area hangs in with the address_space of its vm_file; its pages, from vm_pgoff on, "
    "with its place in the tree and the last page recorded there",
    views=(View.FILE_RMAP, View.VMA, View.FILES),
    transient="merges and splits change vm_pgoff while the area is out of the tree, under the write lock",
    by_hand=("crash: struct vm_area_struct.vm_file,vm_pgoff,shared VMA", hand.I_MMAP),
    steps=("area", "file"),
    part=Part.CAUSE,
    rank=100,
)
