"""MM-COUNTER: counter of the address space disagrees with its VMAs.

*Severity:* medium; high where only `exec_vm` and its counterparts differ: pages that were counted as executable and
now are not, or the other way round.

*Compared:* as VMA-MISSING, for the differences that are neither plainly too few nor too many. Also `locked_vm`, which
may be more than the VMAs with VM_LOCKED add up to, not less: io_uring, vfio, bpf and RDMA add to it.

The classes are those of `vm_stat_account`, tested in this order: executable and neither writable nor growing down;
growing down, or a shadow stack; writable and not shared.

*Guaranteed by:* `vm_stat_account` (mm/mmap.c; mm/vma.c); `mprotect_fixup` moves pages from one class to another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.context import allows
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, LAGS, Part, Rule, Severity
from vmaforensics.checks.vmas.counters import EXACT, Difference, Way, differences, sum_vmas
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

_MOST_PAGES = 1 << 52  # no VMA has as many

RULE = Rule(
    id="MM-COUNTER",
    title="counter of the address space disagrees with its VMAs",
    severity=Severity.MEDIUM,
    why="These counters are exact while the mmap lock is free. A difference means that VMAs were added, removed "
    "or changed without the kernel's own code.",
    compares="as VMA-MISSING, for differences that are neither plainly too few nor too many; and locked_vm with the "
    "VMAs that have VM_LOCKED, which may be fewer and not more",
    views=(View.COUNTERS, *INDICES, View.VMA),
    transient="as VMA-MISSING",
    by_hand=(hand.COUNTERS, hand.VMAS),
    steps=("counters", "index"),
    part=Part.TRACE,
    rank=380,
    excused_by=LAGS,
)


def check(context: Context) -> Iterator[Finding]:
    """Counters that differ neither plainly one way nor the other; locked_vm that is too low."""
    for difference in context.shared(differences):
        if difference.way is Way.MIXED:
            yield _mixed(context, difference)
    yield from _locked(context)


def _mixed(context: Context, difference: Difference) -> Finding:
    """Executable pages that no executable VMA has now weigh more: mprotect by hand."""
    lacks, evidence = difference.lacks, list(difference.evidence)
    names = [name for name, value in zip(EXACT, lacks, strict=True) if value]
    severity = None
    title = f"{' and '.join(names)} {'disagrees' if len(names) == 1 else 'disagree'} with the VMAs"
    if lacks.map_count == lacks.total_vm == 0 and lacks.exec_vm:
        severity = Severity.HIGH
        count = lacks.exec_vm
        title = (
            f"{context.pages(abs(count))} were counted as executable and now lie in VMAs that are not"
            if count > 0
            else f"{context.pages(abs(count))} lie in executable VMAs and were not counted as executable"
        )
        evidence += _same_size(context, difference.mm, abs(count), executable=count < 0)
    return context.finding(RULE, difference.mm, title, evidence, severity=severity)


def _same_size(context: Context, mm: int, size: int, *, executable: bool) -> list[Evidence]:
    """VMAs of ``size`` pages that are, or are not, executable."""
    if size >= _MOST_PAGES:
        return []
    entries = context.views.index
    vmas = context.views.vmas.take(entries.vma_row[entries.mm == np.uint64(mm)])
    is_executable = (vmas.flags & np.uint64(flags.VM_EXEC)) != 0
    wanted = np.uint64(size * context.views.arch.page_size)
    fits = np.flatnonzero((vmas.end - vmas.start == wanted) & (is_executable == executable))
    return [
        Evidence(
            what=f"a VMA of that size: {int(vmas.start[row]):#x}-{int(vmas.end[row]):#x}, "
            f"{allows(int(vmas.flags[row]))}",
            view=View.VMA.label,
            address=int(vmas.vma[row]),
        )
        for row in fits[:4].tolist()
    ]


def _locked(context: Context) -> Iterator[Finding]:
    """locked_vm is no less than the locked VMAs: io_uring, vfio, bpf and RDMA add to it."""
    views, sums = context.views, context.shared(sum_vmas)
    stored = views.mms.locked_vm.astype(np.int64)
    for row in np.flatnonzero((stored < sums.locked) & sums.known).tolist():
        mm = int(views.mms.mm[row])
        evidence = Evidence(
            what=f"locked_vm is {int(stored[row])}, locked VMAs add up to {int(sums.locked[row])}",
            view=View.COUNTERS.label,
            address=mm + views.mm_offsets.locked_vm,
            found=str(int(stored[row])),
            expected=f"at least {int(sums.locked[row])}",
        )
        yield context.finding(RULE, mm, "locked_vm is less than the locked VMAs add up to", [evidence])
