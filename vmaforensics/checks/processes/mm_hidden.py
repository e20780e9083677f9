"""MM-HIDDEN: address space in use belongs to no process.

*Severity:* high; medium where fewer than two independent records know of it, or its owner has ended or is not known;
low where its owner is forking or executing.

*Compared:* the `mm_struct`s that page directories, reclaim, maple trees and the slab cache lead to, with those of all
tasks.

*Guaranteed by:* `mm_users` falls to 0 when the last user goes (`mmput`).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="MM-HIDDEN",
    title="address space in use belongs to no process",
    severity=Severity.HIGH,
    why="Page directories, reclaim and the allocator have records of address spaces of their own. One with areas "
    "and users that no process has is the memory of a process that was hidden.",
    benign=(
        SMEAR,
        "a process that was forking or about to run another program",
        "a process that has ended while somebody still held its memory",
        BUG,
    ),
    compares="the mm_structs of pgd_list, the lru_gen list, root maple nodes and the slab, if they have areas and "
    "users, with those of all tasks",
    views=(View.SOURCES, View.SLAB, View.TASKS),
    transient="fork and exec have one that no task has yet or has any more; a reader may hold one whose process ended",
    by_hand=("crash: struct mm_struct.owner,mm_users,map_count MM", hand.SLAB),
    steps=("mm", "index", "task"),
    rank=540,
)
