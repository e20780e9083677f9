"""RMAP-FILE-HIDDEN: VMA of a file that no index of the memory map holds.

*Compared:* the VMAs in the `i_mmap` trees of files, if their `vm_mm` is the `mm_struct` of a task, with the VMAs of
its indices. Only where every index was read whole.

*Guaranteed by:* `vma_link_file` and `unlink_file_vma` (mm/mmap.c, later mm/vma.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks import hand
from vmaforensics.checks.reverse_maps.hidden_vmas import hidden_findings
from vmaforensics.checks.rule import INDICES, LAGS, REINDEXES, Part, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="RMAP-FILE-HIDDEN",
    title="VMA of a file that no index of the memory map holds",
    severity=Severity.HIGH,
    why="Every VMA of a file is in the file's i_mmap too. One that is there, belongs to a running process "
    "and is in no index of its memory map was taken out of it by hand; its pages stay mapped and usable.",
    compares="the VMAs in the i_mmap trees of files, if their vm_mm is that of a process, with those of its indices",
    views=(View.FILE_RMAP, *INDICES),
    transient="fork, mmap and splits link a VMA into the reverse map before the index has it, under the write lock; "
    "munmap takes it out of the index first, and may go on under the read lock",
    by_hand=(hand.I_MMAP, hand.VM),
    steps=("vma", "file", "index", "tree", "list"),
    part=Part.CAUSE,
    rank=80,
    hides=True,
    excused_by=LAGS,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such VMAs."""
    yield from hidden_findings(context, RULE, View.FILE_RMAP)
