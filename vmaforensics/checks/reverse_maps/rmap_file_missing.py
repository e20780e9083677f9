"""RMAP-FILE-MISSING: area of a file is not in the file's i_mmap.

*Compared:* every area with a `vm_file` with the `i_mmap` tree of that file's `address_space`. Only where the tree was
read whole.

*Guaranteed by:* as RMAP-FILE-HIDDEN.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="RMAP-FILE-MISSING",
    title="area of a file is not in the file's i_mmap",
    severity=Severity.HIGH,
    why="The kernel links every area that has a file into i_mmap, to find it when pages are written back, "
    "truncated or reclaimed. An area that is not there escapes whoever looks for the users of the file.",
    compares="every area with a vm_file with the i_mmap tree of that file's address_space",
    views=(View.FILE_RMAP, *INDICES, View.FILES),
    transient="merges and splits take an area out of the reverse map for a while, under the write lock",
    by_hand=(hand.I_MMAP,),
    steps=("area", "file"),
    part=Part.CAUSE,
    rank=110,
)
