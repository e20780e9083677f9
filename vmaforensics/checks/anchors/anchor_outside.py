"""ANCHOR-OUTSIDE: address that the kernel remembers of a process lies in no VMA.

*Compared:* `start_code` to `env_end`, `brk` and `vdso` of `mm_struct`, addresses of the auxiliary vector, and addresses
a thread handed to the kernel, with the VMAs of all indices.

*Guaranteed by:* they lie in VMAs when they are set up; programs may unmap them later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, Confidence, Part, Rule, Severity
from vmaforensics.checks.vmas.coverage import Coverage
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.anchors.anchors import AnchorsView

RULE = Rule(
    id="ANCHOR-OUTSIDE",
    title="address that the kernel remembers of a process lies in no VMA",
    severity=Severity.INFO,
    confidence=Confidence.LOW,
    why="The program's own parts and what its threads handed to the kernel lie in VMAs when they are set up. A "
    "VMA that has been hidden since leaves such addresses behind.",
    benign=("programs may unmap or move any of their parts", "prctl(PR_SET_MM) sets such addresses at will"),
    attack=("T1055",),
    compares="start_code to env_end, brk and vdso of mm_struct, the auxiliary vector, and addresses a thread handed to "
    "the kernel, with the VMAs of all indices",
    views=(View.ANCHORS, *INDICES),
    transient="exec",
    by_hand=("crash: struct mm_struct.start_code,end_code,start_brk,brk,start_stack,arg_start,env_end MM", hand.VM),
    steps=("word", "mm", "index"),
    part=Part.LEFT_BEHIND,
    rank=570,
)


@table()
class _Remembered(Table):
    """A user address that the kernel remembers, for each address space that has one."""

    mm: U64
    value: U64  # the address; of a range, that of a byte inside
    where: U64  # address of the word, or of the structure that has it


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such addresses."""
    anchors = context.views.anchors
    if anchors is None:
        return
    cover = context.shared(Coverage)
    parts = _bounds(context) | _auxiliary_vectors(anchors) | _pointers(context, anchors)
    names = list(parts)
    name, _ = expand(np.array([len(part) for part in parts.values()]))
    every = _Remembered.concatenate(parts.values())
    outside = np.flatnonzero(cover.whole(every.mm) & ~cover.holds(every.mm, every.value))

    def evidence(at: int) -> Evidence:
        row = int(outside[at])
        value = f"{int(every.value[row]):#x}"
        return Evidence(
            what=f"{names[name[row]]} names {value}, where no VMA is",
            view=View.ANCHORS.label,
            address=int(every.where[row]),
            found=value,
        )

    def title(at: int) -> str:
        row = int(outside[at])
        return f"{names[name[row]]} is {int(every.value[row]):#x}, where no VMA is"

    yield from context.per_mm(RULE, every.mm[outside], evidence, title)


def _bounds(context: Context) -> dict[str, _Remembered]:
    """The parts of the program that mm_struct records, by the member's name."""
    mms, offsets = context.views.mms, context.views.mm_offsets

    def first(value: U64, offset: int | None) -> _Remembered:
        """Where something begins."""
        return _remembered(mms.mm, value, mms.mm + np.uint64(offset or 0), value != 0)

    def last(end: U64, start: U64, offset: int) -> _Remembered:
        """The last byte of something that ends at ``end``; an empty range has none."""
        return _remembered(mms.mm, end - np.uint64(1), mms.mm + np.uint64(offset), (end != 0) & (end > start))

    return {
        "start_code": first(mms.start_code, offsets.start_code),
        "end_code": last(mms.end_code, mms.start_code, offsets.end_code),
        "start_data": first(mms.start_data, offsets.start_data),
        "end_data": last(mms.end_data, mms.start_data, offsets.end_data),
        "start_stack": first(mms.start_stack, offsets.start_stack),
        "arg_start": first(mms.arg_start, offsets.arg_start),
        "arg_end": last(mms.arg_end, mms.arg_start, offsets.arg_end),
        "env_start": first(mms.env_start, offsets.env_start),
        "env_end": last(mms.env_end, mms.env_start, offsets.env_end),
        "vdso": first(mms.vdso, offsets.vdso),
        "brk": last(mms.brk, mms.start_brk, offsets.brk),
    }


def _auxiliary_vectors(anchors: AnchorsView) -> dict[str, _Remembered]:
    """The addresses of the auxiliary vectors, by the name of the entry."""
    mms = anchors.mms
    return {
        f"AT_{name.upper()}": _remembered(mms.mm, value, mms.auxv, mms.ok & (value != 0))
        for name, value in mms.auxv_values().items()
    }


def _pointers(context: Context, anchors: AnchorsView) -> dict[str, _Remembered]:
    """What threads handed over, by its name."""
    threads, register = anchors.threads, context.views.arch.thread_pointer.name
    return {
        f"{name} of a thread": _remembered(threads.mm, value, threads.task, value != 0)
        for name, value in threads.pointers(register).items()
    }


def _remembered(mm: U64, value: U64, where: U64, used: Bools) -> _Remembered:
    """Those rows of the arrays that are ``used``."""
    return _Remembered(mm=mm[used], value=value[used], where=where[used])
