"""VMA-RANGE: index range and bounds of a VMA differ.

Kernels with a maple tree.

*Compared:* the index range of the leaf slot with `[vm_start, vm_end)` of the VMA in it. Not for a VMA that belongs
to another address space (VMA-OWNER).

The bounds of a VMA change under the lock of its file's `i_mmap`, and of its anon_vma, too: while one of these was free,
a held mmap lock excuses nothing.

*Guaranteed by:* VMAs are stored over the range `[vm_start, vm_end - 1]`; `validate_mm` (mm/mmap.c, later mm/vma.c)
checks it in debug kernels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.held import HELD, UNTOUCHED, held, untouched
from vmaforensics.checks.indices.maple_slots import firm
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.checks.vmas.indexed import indexed_vmas
from vmaforensics.columns.lookup import last_rows_of, rows_of, values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.vmas.vmas import Vmas

RULE = Rule(
    id="VMA-RANGE",
    title="index range and bounds of a VMA differ",
    severity=Severity.HIGH,
    why="A page fault finds a VMA by its index range, /proc and most tools print vm_start and vm_end. Memory "
    "between the two bounds is usable and not shown, or shown and not usable.",
    compares="the index range of each leaf slot with vm_start and vm_end of the VMA in it",
    views=(View.MAPLE, View.VMA),
    transient="split, merge, expand_downwards and the moving of the stack by exec change one before the other, under "
    "the write lock",
    by_hand=(
        hand.MAPLE,
        "drgn: for first, last, entry in mt_for_each(mm.mm_mt.address_of_()): print(hex(first), hex(last), entry)",
    ),
    steps=("vma", "tree", "index"),
    part=Part.CAUSE,
    rank=30,
    changed_by=(Operation.ADJUST, Operation.GROW),
)

_WORD = 8  # bytes of a slot


def check(context: Context) -> Iterator[Finding]:
    """VMAs of the maple tree whose own bounds are other than their index range."""
    indexed = context.shared(indexed_vmas).get(View.MAPLE)
    if indexed is None:
        return
    entries, at, vmas = indexed.entries, indexed.vma_row, context.views.vmas
    differs = (entries.start != vmas.start[at]) | (entries.end != vmas.end[at])
    wrong = np.flatnonzero(differs & (entries.mm == vmas.mm[at]))  # a foreign VMA is VMA-OWNER
    entries, vmas = entries.take(wrong), vmas.take(at[wrong])
    same = _same(context, entries, vmas)
    for finding in _findings(context, entries.take(same), vmas.take(same)):
        yield replace(finding, proven=HELD if context.acquisition.live else UNTOUCHED)
    yield from _findings(context, entries.take(~same), vmas.take(~same))


def _same(context: Context, entries: IndexEntries, vmas: Vmas) -> Bools:
    """Was each of ``vmas`` the same when its index entry was read, and is it not being changed?"""
    known, clocks = context.shared(held), context.acquisition.clocks
    if known is None or clocks is None:
        return untouched(context, vmas)
    nodes = context.views.maple_nodes
    nodes = nodes.sort_by(nodes.address)
    node = np.maximum(last_rows_of(nodes.address, entries.slot), 0)
    slot = (entries.slot - nodes.address[node]).astype(np.int64) - nodes.slot_offset[node]
    return firm(nodes, node, slot // _WORD) & known.through(vmas.vma, clocks.places.each(entries.slot))


def _findings(context: Context, entries: IndexEntries, vmas: Vmas) -> Iterator[Finding]:
    def ranges(row: int) -> tuple[str, str]:
        index = f"{int(entries.start[row]):#x}-{int(entries.end[row]):#x}"
        return index, f"{int(vmas.start[row]):#x}-{int(vmas.end[row]):#x}"

    def evidence(row: int) -> Evidence:
        index, own = ranges(row)
        return Evidence(
            what=f"the maple tree holds {int(vmas.vma[row]):#x} at {index}, its vm_start and vm_end say {own}",
            view=View.MAPLE.label,
            address=int(entries.slot[row]),
            found=own,
            expected=index,
        )

    def title(row: int) -> str:
        index, own = ranges(row)
        return f"VMA shown as {own} is indexed as {index}"

    def bounds(row: int) -> tuple[int, int]:
        start = min(int(entries.start[row]), int(vmas.start[row]))
        return start, max(int(entries.end[row]), int(vmas.end[row]))

    guarded = _is_guarded(context, vmas)
    for finding in context.per_mm(RULE, entries.mm, evidence, title, bounds):
        settled = guarded[entries.mm == np.uint64(finding.mm)].all()
        yield replace(finding, changed_by=()) if settled else finding


def _is_guarded(context: Context, vmas: Vmas) -> Bools:
    """Was a lock free without which the kernel does not change the bounds of a VMA (vma_prepare, mm/vma.c)?

    With an anon_vma, that of its root; with a file, i_mmap_rwsem of its address_space.
    """
    rmap, files = context.views.rmap, context.views.files
    guarded = np.zeros(len(vmas), np.bool_)
    if rmap is None or files is None:
        return guarded
    anon = rows_of(rmap.anon_vmas.anon_vma, vmas.anon_vma)
    guarded |= (vmas.anon_vma != 0) & values_at(rmap.anon_vmas.ok & ~rmap.anon_vmas.held, anon)
    mapping = values_at(files.rows.mapping, vmas.file_row)
    known = values_at(rmap.mappings.ok & ~rmap.mappings.held, rows_of(rmap.mappings.mapping, mapping))
    guarded |= (mapping != 0) & known
    return guarded
