"""VMA-KIND: VMA is not of the kind that its file makes it.

*Compared:* `vm_ops` and VM_HUGETLB of each VMA with whether it has a file, and which.

*Guaranteed by:* `vma_init` (include/linux/mm.h) gives every VMA `vm_ops`; only `vma_set_anonymous` takes them away, of
what has no file and of a private mapping of /dev/zero (`mmap_zero`, drivers/char/mem.c). What has no file has `vm_ops`
only if it is a special mapping (`__install_special_mapping`). `hugetlbfs_file_mmap` (fs/hugetlbfs/inode.c) sets
VM_HUGETLB, of every mapping of such a file and of nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Part, Rule, Severity
from vmaforensics.checks.vmas.indexed import indexed_vmas
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="VMA-KIND",
    title="VMA is not of the kind that its file makes it",
    severity=Severity.HIGH,
    why="What a VMA says it is decides which pages are looked for in it and how it is shown. Anonymous memory that "
    "poses as something else, or the other way round, is passed over.",
    benign=(SMEAR, BUG, "a driver that is not part of the kernel and takes vm_ops away itself"),
    attack=("T1014", "T1036"),
    compares="vm_ops and VM_HUGETLB of each VMA with its file",
    views=(View.VMA, View.FILES),
    transient="none: they are set before a VMA is in an index",
    by_hand=("crash: struct vm_area_struct.vm_ops,vm_file,vm_flags VMA", hand.VM),
    steps=("vma",),
    part=Part.CAUSE,
    rank=154,
    changed_by=(Operation.MAP,),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such VMAs."""
    views = context.views
    vmas, files = views.vmas, views.files
    if files is None:
        return
    known = values_at(files.rows.ok, vmas.file_row)
    regular = known & values_at(files.rows.regular, vmas.file_row)
    huge_file = known & values_at(files.rows.hugetlb, vmas.file_row)
    huge = (vmas.flags & np.uint64(flags.VM_HUGETLB)) != 0
    none = vmas.file == 0
    wrong = {
        "has functions of a mapped file, and no file": none & (vmas.ops != 0) & (vmas.kind != Kind.SPECIAL),
        "has a file, and no functions": regular & (vmas.ops == 0),
        "is said to be of huge pages, and its file is not": huge & (none | (known & ~huge_file)),
        "maps a file of huge pages, and is not said to be of them": huge_file & ~huge,
    }
    indexed = np.zeros(len(vmas), np.bool_)
    entry = indexed_vmas(context)[context.index].vma_row
    indexed[entry[entry >= 0]] = True
    places = [(what, np.flatnonzero(mask & vmas.ok & indexed)) for what, mask in wrong.items()]
    rows = np.concatenate([at for _, at in places])
    said = [what for what, at in places for _ in range(len(at))]

    def title(at: int) -> str:
        return f"{context.vma_in_words(int(vmas.vma[rows[at]]))} {said[at]}"

    def evidence(at: int) -> Evidence:
        row = int(rows[at])
        return Evidence(
            what=f"{title(at)}: vm_file is {int(vmas.file[row]):#x}, vm_flags {int(vmas.flags[row]):#x}",
            view=View.VMA.label,
            address=int(vmas.vma[row]),
            found=f"{int(vmas.ops[row]):#x}",
        )

    def bounds(at: int) -> tuple[int, int]:
        return int(vmas.start[rows[at]]), int(vmas.end[rows[at]])

    for finding in context.per_mm(RULE, vmas.mm[rows], evidence, title, bounds):
        yield replace(finding, settled=True)  # a file that is mapped stays what it is
