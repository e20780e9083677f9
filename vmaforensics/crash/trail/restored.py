"""A word that holds a pointer that leads nowhere: what it is, and what it held before one bit or byte of it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.crash.trail.further import tags_of
from vmaforensics.crash.trail.word import BrokenWord, Sure, flipped
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.objects.members import holds_at
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.columns.types import U64
    from vmaforensics.crash.trail.records import Records


def broken_pointer(records: Records, address: int, why: str, value: int, mm: int) -> BrokenWord:
    """The word at ``address``, which holds the pointer ``value``; ``why`` it was looked at.

    What it should hold is said, and then that is certain, if one change alone makes a pointer of the right kind of it.
    """
    entries = records.index(mm) if mm else IndexEntries.zeros(0)
    slot = next(iter(np.flatnonzero(entries.slot == np.uint64(address)).tolist()), None)
    what = records.word_name(address)
    user = None
    if slot is not None and records.kernel.has("mm_struct", "mm_mt"):
        user = int(entries.start[slot])
        node = records.objects.at(address)
        place = f"maple_node {node.start:#x}" if node is not None else "the tree's root"
        what = f"the slot for {user:#x}-{int(entries.end[slot]):#x} in {place} of {records.who(mm)}"
    reasons = [
        why,
        f"no {'memory' if records.kernel.arch.is_kernel_address(value) else 'kernel memory'} is at {value:#x}",
    ]
    before = _before(records, address, value, is_slot=slot is not None)
    if before is not None:
        target = records.objects.at(before)
        reasons.append(
            f"{flipped(value, before)}: without that it leads to "
            + (records.object_name(target) if target is not None else records.leads_to(before))
        )
    flags = (records.word(address) or 0) & tags_of(value)
    return BrokenWord(
        what=what,
        address=address,
        physical=records.physical(address),
        user_address=user,
        mm=mm,
        found=hex(value | flags),
        expected="" if before is None else hex(before | flags),
        sure=Sure.CERTAIN if before is not None else Sure.LIKELY,
        why=tuple(reasons),
    )


def _before(records: Records, address: int, value: int, *, is_slot: bool) -> int | None:
    """``value`` with one bit other, if that leads to the one thing that the member may lead to; else with one byte.

    That is the start of an object in use, or a structure inside of one, of the type that the member points to; or, if
    it is of no slab, the one symbol of the kernel itself, as its tables of operations have.
    """
    wanted = "vm_area_struct" if is_slot else records.pointed_to(address)
    bits: U64 = np.uint64(1) << np.arange(64, dtype=np.uint64)
    fits = list(_fitting(records, np.uint64(value) ^ bits, wanted)) or records.own_symbols(value)
    if not fits and wanted is not None:
        shifts = np.uint64(8) * np.arange(8, dtype=np.uint64)
        others: U64 = (np.arange(1, 256, dtype=np.uint64)[:, None] << shifts).reshape(-1)
        fits = list(_fitting(records, np.uint64(value) ^ others, wanted))
    return fits[0] if len(fits) == 1 else None


def _fitting(records: Records, candidates: U64, wanted: str | None) -> Iterable[int]:
    """Which of ``candidates`` lead to a ``wanted`` in use; without one, to the start of any object."""
    records.objects.look_up(candidates)
    types = records.kernel.types
    for candidate in candidates.tolist():
        target = records.objects.at(candidate)
        if target is None or target.state == State.FREE:
            continue
        if wanted is None or target.struct is None:
            fits = target.offset == 0
        else:
            fits = holds_at(types, target.struct, target.offset, wanted)
        if fits:
            yield candidate
