"""PTE-KERNEL: user page table leads to the kernel's own memory.

*Compared:* what `struct page` says of each frame that a user entry in an area leads to: a slab or page-table page is a
finding.

*Guaranteed by:* user entries lead to user pages, or to what a driver maps.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="PTE-KERNEL",
    title="user page table leads to the kernel's own memory",
    severity=Severity.CRITICAL,
    why="A process that has slab objects or page tables in its own address space can change the kernel at will.",
    attack=("T1014", "T1068"),
    compares="what struct page says of each frame that a user entry leads to: slab and page-table pages are a finding",
    views=(View.PAGE_TABLES, View.PAGES),
    transient="none",
    by_hand=(hand.VTOP, "crash: kmem PHYSICAL"),
    steps=("memory", "entry", "frame", "area"),
    part=Part.CAUSE,
    rank=140,
)
