"""Counters of an address space that ended otherwise than they must: ``check_mm`` (kernel/fork.c), ``exit_mmap``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.crash.trail.word import BrokenWord, Sure, Trail
from vmaforensics.views.pages.rss import KINDS
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State
from vmaforensics.views.structures.per_cpu import per_cpu_offsets
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.records import Records

_MOST: Final = 4  # words of one complaint
_BATCH: Final = 32  # percpu_counter_batch of a small machine
_HASHED: Final = "the kernel prints the address of the mm hashed (%p): it was looked for by its counters"

_WHOSE: Final = "the process has ended, and no word says any more which it was"


def follow_rss(records: Records, complaint: Complaint) -> Trail:
    """``Bad rss-counter state``: the entry that is missing, or the counter itself.

    The mm is freed right after (__mmdrop); a freed object keeps its words until it is handed out again.
    """
    counter, value = complaint.named.texts.get("counter", ""), complaint.named.get("value")
    trail = Trail(notes=[_HASHED, _WHOSE])
    if "dropped by" in complaint.named.texts:
        trail.notes.append("the process in the line is the one that gave the last reference back, often another")
    if value is None:
        return trail
    if counter not in KINDS and counter.isdecimal() and int(counter) < len(KINDS):
        counter = KINDS[int(counter)]
    lost = _lost_entries(records, counter, value)
    if lost:
        trail.words += lost
    counters = _freed_counters(records, counter, value)
    if lost:
        trail.notes += [f"{word.what} at {word.address:#x} still holds it" for word in counters[:1]]
        return trail
    trail.words += counters
    if not counters:
        trail.notes.append("no mm_struct that was freed still holds that value: its memory has been handed out again")
    return trail


def _lost_entries(records: Records, counter: str, value: int) -> list[BrokenWord]:
    """Pages that count a mapping more than page tables hold, if they are as many as the counter is too high.

    Then the counter is right, and entries were cleared without it.
    """
    view = records.views.page_tables
    if view is None or value <= 0 or counter != "MM_ANONPAGES" or not view.whole.all():
        return []
    pages, entries = view.miscounted.pages, view.miscounted.entries
    lost = np.flatnonzero(pages.anon & ~pages.ksm & (pages.mapcount > entries))
    over = int((pages.mapcount[lost] - entries[lost]).sum())
    if over != value or len(lost) != int((pages.mapcount > entries).sum()):
        return []
    arch = records.kernel.arch
    found = []
    for row in lost[:_MOST].tolist():
        frame, address = int(pages.pfn[row]), int(pages.index[row]) << arch.page_shift
        counts = f"frame {frame:#x} counts {counted(int(pages.mapcount[row]), 'mapping')}"
        mappings = counted(over, "mapping")
        found.append(
            BrokenWord(
                what=f"the page-table entry for {address:#x} that led to page frame {frame:#x}",
                user_address=address,
                found="gone",
                expected=f"an entry for frame {frame:#x}",
                sure=Sure.LIKELY,
                why=(
                    f"{counts}, page tables hold {int(entries[row])}; its index says {address:#x}",
                    f"{mappings} without an entry, as many as {counter} is too high: so the counter was right",
                    "the process has ended, and its page tables were given back: where the entry lay is not known",
                ),
            )
        )
    return found


def _freed_counters(records: Records, counter: str, value: int) -> list[BrokenWord]:
    """The counters of freed mm_structs that hold ``value``."""
    kernel, slab = records.kernel, records.views.slab
    kind = kernel.types.constant(counter)
    if slab is None or kind is None:
        return []
    objects = slab.of(ObjectKind.MM)
    freed = objects.address[objects.state == State.FREE]
    exact = not kernel.has("mm_struct", "rss_stat.counters")
    where, held, ok = _counts(records, freed, kind)
    # Where each CPU kept a part of it, those were given back with it: what is left is off by what they can hold.
    fits = ok & (held == value) if exact else ok & (held != 0) & (np.abs(held - value) <= _unfolded(records))
    used = {mm: pid for mm in freed[fits].tolist() if (pid := records.user_of(mm)) is not None}
    if used:
        return [_users(records, mm, pid) for mm, pid in used.items()]
    sole = int(fits.sum()) == 1
    why = ["the mm_struct is free: check_mm is called when nothing uses it any more (__mmdrop)"]
    if exact:
        why.append(
            f"{'it alone' if sole else 'it'} holds the value of the complaint, of {counted(len(freed), 'freed mm')}"
        )
    else:
        why.append(
            f"of {counted(len(freed), 'freed mm')} {'it alone has' if sole else 'it is one that has'} a count that is "
            "not 0; the parts that CPUs kept of it are gone"
        )
    if value > 0 and _balanced(records):
        why.append("every page counts as many mappings as page tables hold: so no entry is missing")
    name = f"rss_stat[{counter}].count" if not exact else f"rss_stat.count[{counter}]"
    found = []
    for row in np.flatnonzero(fits)[:_MOST].tolist():
        mm = int(freed[row])
        found.append(
            BrokenWord(
                what=f"mm_struct.{name} in freed mm_struct {mm:#x}",
                address=int(where[row]),
                physical=records.physical(int(where[row])),
                mm=mm,
                found=str(int(held[row])),
                expected="0" if exact else f"0 with the parts of every CPU, which the kernel counted as {value}",
                sure=Sure.LIKELY if sole else Sure.POSSIBLE,
                why=tuple(why),
            )
        )
    return found


def torn_down_in_use(records: Records, values: Iterable[int]) -> list[BrokenWord]:
    """``mm_users`` of the mm_structs among what ``values`` lead to that are free though a task has them."""
    found: dict[int, BrokenWord] = {}
    for value in values:
        mm = records.objects.at(value)
        if mm is None or mm.struct != "mm_struct" or mm.state != State.FREE or mm.start in found:
            continue
        pid = records.user_of(mm.start)
        if pid is not None:
            found[mm.start] = _users(records, mm.start, pid)
    return list(found.values())


def _users(records: Records, mm: int, pid: int) -> BrokenWord:
    """``mm_users`` of an mm that was torn down and freed while a task has it: the other counters follow from that."""
    address = mm + records.kernel.offset("mm_struct", "mm_users")
    word = records.word(address & ~7)
    held = "" if word is None else str(word >> 8 * (address & 7) & 0xFFFFFFFF)
    return BrokenWord(
        what=f"mm_struct.mm_users in freed mm_struct {mm:#x}",
        address=address,
        physical=records.physical(address),
        mm=mm,
        found=held,
        expected="1 or more when the mm was torn down",
        sure=Sure.LIKELY,
        why=(f"the mm_struct is free, and pid {pid} still has it: it counted too few users, or one let go twice",),
    )


def _unfolded(records: Records) -> int:
    """What CPUs may not have added to a percpu_counter yet (percpu_counter_add_batch, lib/percpu_counter.c)."""
    batch = records.kernel.variable("percpu_counter_batch", 4)
    return (_BATCH if batch is None else batch) * len(per_cpu_offsets(records.kernel))


def _balanced(records: Records) -> bool:
    view = records.views.page_tables
    return view is not None and bool(view.whole.all()) and not len(view.miscounted.pages)


def _counts(records: Records, mms: U64, kind: int) -> tuple[U64, I64, Bools]:
    """(address, value, could it be read) of the counter number ``kind`` of each mm, without the parts of CPUs."""
    kernel = records.kernel
    if kernel.has("mm_struct", "rss_stat.counters"):
        field = kernel.member("mm_struct", "rss_stat")
        offset = field.offset + kind * field.size + kernel.offset("percpu_counter", "count")
    elif kernel.has("mm_struct", "rss_stat.count"):
        offset = kernel.offset("mm_struct", "rss_stat.count") + 8 * kind
    else:
        return mms, np.zeros(len(mms), np.int64), np.zeros(len(mms), np.bool_)
    where = mms + np.uint64(offset)
    words, ok = kernel.words(where, 1)
    return where, words[:, 0].view(np.int64), ok


def follow_map_count(records: Records, complaint: Complaint) -> Trail:
    """``BUG_ON(count != mm->map_count)`` of ``exit_mmap`` (mm/mmap.c, 6.1): the tree still holds the VMAs."""
    trail = Trail()
    mm = records.mm_of(complaint.said.pid)
    rows = records.mms(mm) if mm else None
    if rows is None or not rows.ok[:1].all() or not len(records.index(mm)):
        trail.notes.append("the memory map of the process that died is gone, or cannot be read")
        return trail
    stored, held = int(rows.map_count[0]), len(records.index(mm))
    ending = "exit_mmap" in complaint.functions[:2]
    if stored == held:
        return trail
    address = mm + records.kernel.offset("mm_struct", "map_count|vma_count")
    trail.words.append(
        BrokenWord(
            what=f"mm_struct.map_count in mm_struct {mm:#x} of {records.who(mm)}",
            address=address,
            physical=records.physical(address),
            mm=mm,
            found=str(stored),
            expected=str(held),
            sure=Sure.CERTAIN if ending else Sure.POSSIBLE,
            why=(
                f"its index holds {counted(held, 'VMA')}",
                "exit_mmap counts what it removes and compares with map_count (BUG_ON)"
                if ending
                else "the two differ for a moment while the map is changed, too",
            ),
        )
    )
    return trail


def follow_pgtables(records: Records, complaint: Complaint) -> Trail:
    """``non-zero pgtables_bytes on freeing mm``: freed mm_structs whose counter holds that."""
    value, kernel, slab = complaint.named.get("pgtables_bytes"), records.kernel, records.views.slab
    trail = Trail()
    if value is None or slab is None or not kernel.has("mm_struct", "pgtables_bytes.counter"):
        return trail
    offset = kernel.offset("mm_struct", "pgtables_bytes.counter")
    objects = slab.of(ObjectKind.MM)
    freed = objects.address[objects.state == State.FREE]
    words, ok = kernel.words(freed + np.uint64(offset), 1)
    for mm in freed[ok & (words[:, 0].view(np.int64) == value)][:_MOST].tolist():
        trail.words.append(
            BrokenWord(
                what=f"mm_struct.pgtables_bytes in freed mm_struct {mm:#x}",
                address=mm + offset,
                physical=records.physical(mm + offset),
                mm=mm,
                found=str(value),
                expected="0",
                sure=Sure.LIKELY,
                why=("a freed mm_struct that still holds the value of the complaint",),
            )
        )
    if not trail.words:
        trail.notes.append("no mm_struct that was freed still holds that value: its memory has been handed out again")
    return trail
