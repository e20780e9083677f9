"""The counters of ``mm_struct`` against what its VMAs add up to, and which way they differ.

vm_stat_account (mm/mmap.c; mm/vma.c) keeps them exact while the mmap lock is free. VMAs are counted over the union of
all indices: what one index hides and another shows is VMA-UNLINKED, not missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.columns.lookup import values_at
from vmaforensics.columns.ragged import sum_by
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.processes.mms import MmOffsets, Mms

T = TypeVar("T")


class Exact(NamedTuple, Generic[T]):
    """A value for each counter of ``mm_struct`` that is exact while the mmap lock is free."""

    map_count: T  # VMAs
    total_vm: T  # pages, as the others
    exec_vm: T
    stack_vm: T
    data_vm: T


EXACT = Exact._fields


def exact_counters(mms: Mms) -> Exact[I64 | U64]:
    """The counters as stored, a row per row of ``mms``: ``map_count`` is an int, the others are unsigned longs."""
    return Exact(mms.map_count, mms.total_vm, mms.exec_vm, mms.stack_vm, mms.data_vm)


def _offsets(offsets: MmOffsets) -> Exact[int]:
    """Byte offset of each in ``mm_struct``."""
    return Exact(offsets.map_count, offsets.total_vm, offsets.exec_vm, offsets.stack_vm, offsets.data_vm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What the VMAs of each mm add up to: a row per row of ``Views.mms``, in pages (``map_count``: VMAs)."""

    exact: Exact[I64]
    locked: I64
    known: Bools  # every VMA of the mm could be read


def sum_vmas(context: Context) -> Sums:
    """Count the VMAs of every mm as vm_stat_account would; ask for it with ``context.shared``."""
    views = context.views
    union = views.union
    owner, count = views.mm_rows(union.mm), len(views.mms)
    keep = (owner >= 0) & values_at(views.vmas.ok, union.vma_row)
    owner, at = owner[keep], union.vma_row[keep]
    size = views.arch.pages(views.vmas.end[at] - views.vmas.start[at])
    classes = _classes(views.vmas.flags[at], shadow_stack=views.shadow_stack_flag)

    def total(which: Bools) -> I64:
        return sum_by(owner[which], size[which], count)

    known = views.mms.ok.copy()
    for view in views.indices():
        known &= context.decoded(view, views.mms.mm)
    return Sums(
        exact=Exact(
            map_count=np.bincount(owner, minlength=count).astype(np.int64),
            total_vm=sum_by(owner, size, count),
            exec_vm=total(classes.executable),
            stack_vm=total(classes.stack),
            data_vm=total(classes.data),
        ),
        locked=total(classes.locked),
        known=known,
    )


class _Classes(NamedTuple):
    """How each VMA is counted; the first three exclude each other."""

    executable: Bools
    stack: Bools
    data: Bools
    locked: Bools


def _classes(vm_flags: U64, *, shadow_stack: int) -> _Classes:
    """The classes of vm_stat_account: is_exec_mapping, is_stack_mapping, is_data_mapping (mm/internal.h), in turn."""
    stack = (vm_flags & np.uint64(flags.VM_GROWSDOWN)) != 0
    stack |= (vm_flags & np.uint64(shadow_stack)) != 0
    code_bits = np.uint64(flags.VM_EXEC | flags.VM_WRITE | flags.VM_GROWSDOWN)
    executable = (vm_flags & code_bits) == np.uint64(flags.VM_EXEC)
    data_bits = np.uint64(flags.VM_WRITE | flags.VM_SHARED | flags.VM_GROWSDOWN)
    data = (vm_flags & data_bits) == np.uint64(flags.VM_WRITE)
    return _Classes(
        executable=executable,
        stack=stack & ~executable,
        data=data & ~executable & ~stack,
        locked=(vm_flags & np.uint64(flags.VM_LOCKED)) != 0,
    )


class Way(Enum):
    """Which way the counters of an address space differ from its VMAs."""

    TOO_FEW = "fewer VMAs or pages than counted"
    TOO_MANY = "more VMAs or pages than counted"
    MIXED = "neither plainly too few nor too many"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An address space whose counters and VMAs differ."""

    mm: int
    mm_row: int
    way: Way
    lacks: Exact[int]  # counter less sum
    evidence: tuple[Evidence, ...]  # one for each counter that differs


def differences(context: Context) -> list[Difference]:
    """Every address space whose exact counters and VMAs differ; ask for it with ``context.shared``.

    Where a VMA has another index range than its own bounds (VMA-RANGE), page counts differ for that: no VMA is said
    to be missing or surplus there.
    """
    views, sums = context.views, context.shared(sum_vmas)
    counters = exact_counters(views.mms)
    lacking = Exact(*(stored.astype(np.int64) - real for stored, real in zip(counters, sums.exact, strict=True)))
    off = sums.known & np.logical_or.reduce([values != 0 for values in lacking])
    resized = _resized(context)
    found = []
    for row in np.flatnonzero(off).tolist():
        mm = int(views.mms.mm[row])
        lacks = Exact(*(int(values[row]) for values in lacking))
        found.append(
            Difference(
                mm=mm,
                mm_row=row,
                way=Way.MIXED if mm in resized else _way(lacks.map_count, lacks.total_vm),
                lacks=lacks,
                evidence=tuple(
                    _evidence(name, mm + offset, int(stored[row]), int(real[row]))
                    for name, offset, stored, real, lack in zip(
                        EXACT, _offsets(views.mm_offsets), counters, sums.exact, lacks, strict=True
                    )
                    if lack
                ),
            )
        )
    return found


def _way(vmas: int, total: int) -> Way:
    """Which way it is, if the counters have ``vmas`` VMAs and ``total`` pages more than there are."""
    if total >= 0 and (vmas > 0 or (vmas == 0 and total > 0)):
        return Way.TOO_FEW
    if total <= 0 and (vmas < 0 or (vmas == 0 and total < 0)):
        return Way.TOO_MANY
    return Way.MIXED


def _evidence(name: str, address: int, stored: int, real: int) -> Evidence:
    """A counter as stored at ``address``, and what the VMAs add up to."""
    return Evidence(
        what=f"{name} is {stored}, the VMAs add up to {real}",
        view=View.COUNTERS.label,
        address=address,
        found=str(stored),
        expected=str(real),
    )


def _resized(context: Context) -> set[int]:
    """Address spaces with a VMA whose index range is not its own."""
    entries = context.views.maple
    if entries is None:
        return set()
    vmas, at = context.views.vmas, entries.vma_row
    differ = vmas.ok[at] & ((entries.start != vmas.start[at]) | (entries.end != vmas.end[at]))
    return set(entries.mm[differ].tolist())
