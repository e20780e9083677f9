"""MM-COUNTER: counter of the address space disagrees with its areas.

*Severity:* medium; high where only `exec_vm` and its counterparts differ: pages that were counted as executable and
now are not, or the other way round.

*Compared:* as VMA-MISSING, for the differences that are neither plainly too few nor too many. Also `locked_vm`, which
may be more than the areas with VM_LOCKED add up to, not less: io_uring, vfio, bpf and RDMA add to it.

The classes are those of `vm_stat_account`, tested in this order: executable and neither writable nor growing down;
growing down, or a shadow stack; writable and not shared.

*Guaranteed by:* `vm_stat_account` (mm/mmap.c; mm/vma.c); `mprotect_fixup` moves pages from one class to another.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, LAGS, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="MM-COUNTER",
    title="counter of the address space disagrees with its areas",
    severity=Severity.MEDIUM,
    why="These counters are exact while the mmap lock is free. A difference means that areas were added, removed "
    "or changed without the kernel's own code.",
    compares="as VMA-MISSING, for differences that are neither plainly too few nor too many; and locked_vm with the "
    "areas that have VM_LOCKED, which may be fewer and not more",
    views=(View.COUNTERS, *INDICES, View.VMA),
    transient="as VMA-MISSING",
    by_hand=(hand.COUNTERS, hand.VMAS),
    steps=("counters", "index"),
    part=Part.TRACE,
    rank=380,
    excused_by=LAGS,
)
