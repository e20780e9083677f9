"""VMA-EXEC-DELETED: executable memory of a deleted file.

*Compared:* nothing: executable areas of files whose link count is 0.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Confidence, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-EXEC-DELETED",
    title="executable memory of a deleted file",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="Code whose file is gone can be had from memory only.",
    benign=("the package was upgraded while the program ran", "programs that delete what they unpacked"),
    attack=("T1070.004",),
    compares="nothing: tells executable areas of files whose link count is 0",
    views=(View.VMA, View.FILES),
    transient="none",
    by_hand=(hand.VM, "crash: struct inode.i_nlink INODE"),
    steps=("area", "file", "memory"),
    rank=620,
)
