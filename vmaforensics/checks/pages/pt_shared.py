"""PT-SHARED: page table reached from two places.

*Compared:* the physical addresses of all page-table pages of user halves: none twice, neither in two processes nor in
one. PMD tables of areas of huge pages (hugetlb) are left out. Where one of the places lies in no area and another does,
the former alone is told, and the evidence names all.

*Guaranteed by:* each table is allocated for one place of one `mm_struct`; only `huge_pmd_share` (mm/hugetlb.c) shares
them.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="PT-SHARED",
    title="page table reached from two places",
    severity=Severity.HIGH,
    why="Two processes, or two places of one, that share a page table share its memory without any record of it.",
    compares="the physical addresses of all page-table pages of user halves: none twice, in two processes or in one, "
    "but for hugetlb areas",
    views=(View.PAGE_TABLES,),
    transient="none known",
    by_hand=(f"{hand.VTOP}  # of each of the processes",),
    steps=("memory", "entry"),
    part=Part.CAUSE,
    rank=190,
)
