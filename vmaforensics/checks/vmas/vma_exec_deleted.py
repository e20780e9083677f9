"""VMA-EXEC-DELETED: executable memory of a deleted file.

*Compared:* nothing: executable VMAs of files whose link count is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Confidence, Rule, Severity
from vmaforensics.checks.vmas.executable import executable_vmas, list_vmas
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.view import View
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="VMA-EXEC-DELETED",
    title="executable memory of a deleted file",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="Code whose file is gone can be recovered from memory only.",
    benign=("the package was upgraded while the program ran", "programs that delete what they unpacked"),
    attack=("T1070.004",),
    compares="nothing: tells executable VMAs of files whose link count is 0",
    views=(View.VMA, View.FILES),
    transient="none",
    by_hand=(hand.VM, "crash: struct inode.i_nlink INODE"),
    steps=("vma", "file", "memory"),
    rank=620,
)


def check(context: Context) -> Iterator[Finding]:
    """Executable VMAs of files without any link left; a file that has another name is not gone."""
    files = context.views.files
    if files is None:
        return
    vmas = context.shared(executable_vmas)
    gone = values_at(files.rows.ok & (files.rows.nlink == 0), vmas.file_row)
    yield from list_vmas(context, RULE, vmas, (vmas.kind == Kind.FILE) & gone)
