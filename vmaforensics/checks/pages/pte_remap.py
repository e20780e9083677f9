"""PTE-REMAP: page in a VMA belongs elsewhere.

*Compared:* `mapping` and `index` of each page with the VMA it is mapped in: the root of the anon_vma and the address
for anonymous pages, the `address_space` and the offset for pages of regular files. KSM pages and pages of devices,
sockets and rings are left out.

*Guaranteed by:* `__page_set_anon_rmap` and its successors (mm/rmap.c); `filemap_fault` maps the page at the offset
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.checks import hand
from vmaforensics.checks.pages.marked_entries import marked_findings
from vmaforensics.checks.pages.page_marks import Mark
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

MARKS: Final = (Mark.OTHER_ANON_VMA, Mark.OTHER_ADDRESS, Mark.OTHER_FILE, Mark.OTHER_OFFSET, Mark.NOT_ANONYMOUS)

RULE = Rule(
    id="PTE-REMAP",
    title="page in a VMA belongs elsewhere",
    severity=Severity.HIGH,
    why="Every page names the file or anon_vma it belongs to and its place there. A page that names another one "
    "was put into the page table by hand: what is shown as the VMA's contents is not what runs.",
    attack=("T1014", "T1055"),
    compares="mapping and index of each page with the file or anon_vma of its VMA and its place there",
    views=(View.PAGE_TABLES, View.PAGES, View.VMA),
    transient="mremap moves entries and VMAs, under the write lock",
    by_hand=(
        hand.VTOP,
        "crash: struct page.mapping,index PAGE",
        "crash: struct vm_area_struct.vm_file,anon_vma,vm_pgoff VMA",
    ),
    steps=("memory", "entry", "frame", "vma", "file"),
    part=Part.CAUSE,
    rank=150,
    changed_by=(Operation.MOVE, Operation.ADJUST, Operation.COLLAPSE),
)


def check(context: Context) -> Iterator[Finding]:
    """For each way to disagree, one finding for each process with entries that lead to pages that are not the VMA's."""
    yield from marked_findings(context, RULE, MARKS)
