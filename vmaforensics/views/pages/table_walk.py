"""One pass over the page tables of every mm: the tables, how many entries each of the lowest level holds, and what can
be said of all entries without the pages they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import Leaves, LowestTables, TablePages
from vmaforensics.views.pages.entries import BATCH
from vmaforensics.views.pages.mapped_frames import EntryCounts
from vmaforensics.views.pages.ptes import Ptes, place_keys
from vmaforensics.views.pages.raw_frames import RawRam
from vmaforensics.views.pages.read_entries import ENTRY_BYTES
from vmaforensics.views.pages.stale_tables import find_strangers
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import IsolatedEntries
    from vmaforensics.columns.types import I64, U64, Bools, U64Wide
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.entry_reader import EntryReader
    from vmaforensics.views.processes.mms import Mms

_HALF_FULL = 256  # entries of a table


class Walked(NamedTuple):
    """What a walk met, ``owner`` being the row of the mm."""

    large: Ptes  # the entries above the lowest level, not matched with pages
    lowest: LowestTables  # the tables of the lowest level that hold entries, by mm and address
    counts: I64  # of each, how many
    digests: U64Wide  # of each, as of LowestEntries
    orphans: I64  # of the entries of the lowest level, numbered by table, those in no range
    raw_ram: I64  # of the same, those of raw_frames
    frames: EntryCounts
    tables: TablePages
    repeated: TablePages
    unusual: Leaves
    isolated: IsolatedEntries
    whole: Bools
    truncated: bool


def walk_tables(kernel: Kernel, reader: EntryReader, mms: Mms, log: ProblemLog) -> Walked:
    """Walk the page tables of every mm, and what is in the user's copy of them alone."""
    arch, memory = kernel.arch, kernel.memory
    pgd = np.where(mms.ok, mms.pgd, np.uint64(0))
    roots, _, mapped = kernel.space.translate(pgd)
    usable = mapped & arch.kernel_pointer(pgd)
    rows = np.flatnonzero(usable)
    log.add(View.PAGE_TABLES, Problem.UNREADABLE, mms.mm[~usable], pgd[~usable])
    found = arch.walk_user(memory, roots[rows])
    isolated = arch.differing_entries(memory, roots[rows])
    user_only = arch.walk_user_only(memory, roots[rows], isolated)
    large = Leaves.concatenate([found.leaves, user_only.leaves])
    lowest = LowestTables.concatenate([found.lowest, user_only.lowest])
    tables = TablePages.concatenate([found.tables, user_only.tables])
    repeated = TablePages.concatenate([found.repeated, user_only.repeated])
    unusual = Leaves.concatenate([found.unusual, user_only.unusual])
    for owner in (large.owner, lowest.owner, tables.owner, repeated.owner, unusual.owner, isolated.owner):
        owner[:] = rows[owner]
    counted = _count(kernel, reader, lowest)
    tables.ok[tables.level == 1] = counted.ok
    lost = tables.take(~tables.ok)
    log.add(View.PAGE_TABLES, Problem.UNREADABLE, mms.mm[lost.owner], lost.pa, lost.va)
    strangers = find_strangers(kernel, tables, large, lowest)
    unusual = unusual.take(~np.isin(kernel.arch.page_bases(unusual.where), tables.pa[strangers.foreign]))
    stale = tables.take(strangers.tables)
    log.add(View.PAGE_TABLES, Problem.STALE, mms.mm[stale.owner], stale.pa, stale.va)
    if strangers.foreign.any():
        large, lowest = large.take(~strangers.large), lowest.take(~strangers.lowest)
        counted = _count(kernel, reader, lowest)
        tables.ok[strangers.foreign] = False
        lost = tables.take(~tables.ok)
    whole = usable.copy()
    whole[lost.owner] = False
    truncated = found.truncated or user_only.truncated
    if truncated:
        log.add(View.PAGE_TABLES, Problem.CUT_SHORT, 0, 0)
        whole[:] = False
    large_ptes = reader.matched(large.sort_by(place_keys(arch, large.owner, large.va)))
    mapped = large_ptes.maps_frames()
    counted.frames.add(large_ptes.pfn[mapped & ~large_ptes.special])
    counted.frames.add_special(large_ptes.pfn[mapped & large_ptes.special])
    return Walked(
        large=large_ptes,
        lowest=counted.tables,
        counts=counted.counts,
        digests=counted.digests,
        orphans=counted.orphans,
        raw_ram=counted.raw_ram,
        frames=counted.frames,
        tables=tables,
        repeated=repeated,
        unusual=unusual,
        isolated=isolated,
        whole=whole,
        truncated=truncated,
    )


class _Counted(NamedTuple):
    """What tables of the lowest level hold."""

    ok: Bools  # of the tables in the order given: could it be read?
    tables: LowestTables  # those that hold entries, by mm and address
    counts: I64
    digests: U64Wide
    orphans: I64
    raw_ram: I64
    frames: EntryCounts


class _Read(NamedTuple):
    """What some tables of the lowest level hold; entries are numbered among them."""

    ok: Bools
    counts: I64
    digests: U64Wide
    pfns: U64  # frame of each entry that counts
    special: U64  # of each that does not
    orphans: I64
    raw_ram: I64


def _count(kernel: Kernel, reader: EntryReader, lowest: LowestTables) -> _Counted:
    """Read every entry of the lowest level once."""
    order = np.argsort(place_keys(kernel.arch, lowest.owner, lowest.va), kind="stable")
    ordered, frames = lowest.take(order), EntryCounts(kernel)
    ok, counts = np.zeros(len(order), np.bool_), np.zeros(len(order), np.int64)
    digests = np.zeros((len(order), 2), np.uint64)
    orphans, raw, before = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    raw_ram, limits = RawRam(kernel), kernel.memory.limits
    step = max(limits.batch(ENTRY_BYTES, BATCH) // _HALF_FULL, 1)

    def read(part: slice) -> _Read:
        found = reader.lowest(ordered.take(part), digests=True)
        assert found.digests is not None
        ptes = reader.matched(found.leaves)
        mapped = ptes.maps_frames()
        leading = mapped & ~ptes.special
        return _Read(
            ok=found.ok,
            counts=found.counts,
            digests=found.digests,
            pfns=ptes.pfn if leading.all() else ptes.pfn[leading],
            special=ptes.pfn[mapped & ptes.special],
            orphans=np.flatnonzero(ptes.range_row < 0),
            raw_ram=raw_ram.rows(ptes),
        )

    parts = [slice(low, low + step) for low in range(0, len(order), step)]
    for part, some in zip(parts, limits.each(read, parts), strict=True):
        ok[order[part]], counts[part], digests[part] = some.ok, some.counts, some.digests
        frames.count(some.pfns)
        frames.add_special(some.special)
        orphans.append(some.orphans + before)
        raw.append(some.raw_ram + before)
        before += int(some.counts.sum())
    held = counts > 0
    return _Counted(
        ok=ok,
        tables=ordered.take(held),
        counts=counts[held],
        digests=digests[held],
        orphans=np.concatenate(orphans),
        raw_ram=np.concatenate(raw),
        frames=frames,
    )
