"""MEM-UNMAPPED-CODE: program code in a memory file that nothing maps.

*Severity:* medium, confidence medium; low for scripts.

*Compared:* the first page held of each file of shared memory that has no path (memfd, System V, deleted) and is in no
area and in no `i_mmap`: does it begin as an ELF file or a script? Who keeps it is looked for among descriptors,
System V segments, files in flight over unix sockets (SCM_RIGHTS: in the queues of sockets that descriptors lead to, of
their peers, of connections not yet accepted, and of sockets that are in flight themselves) and files registered with
io_uring. Sockets that no descriptor leads to are not looked at.

*Contents:* a first page that is not in the image, or is in swap, is counted under *Not assessed*.

*Guaranteed by:* nothing: such files are legal.
"""

from __future__ import annotations

from vmaforensics.checks.rule import INDICES, Confidence, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="MEM-UNMAPPED-CODE",
    title="program code in a memory file that nothing maps",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    why="A file that exists in memory only, has no path and is mapped nowhere can keep code out of every memory "
    "map until the moment it is needed.",
    benign=(
        "installers and container runtimes that hand programs over as a memfd",
        "a file in flight from one process to another",
    ),
    attack=("T1620", "T1564"),
    compares="files of shared memory without a path that are in no area and in no i_mmap: does the first page held "
    "begin as an ELF file or a script? Kept by descriptors, segments, queues of unix sockets or io_uring",
    views=(View.HANDLES, View.FILE_RMAP, *INDICES),
    transient="none: such files are legal",
    by_hand=("crash: files PID",),
    steps=("descriptors",),
    rank=600,
)
