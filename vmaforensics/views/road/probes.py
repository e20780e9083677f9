"""kprobes: every ``struct kprobe`` in ``kprobe_table``, and where it was asked for through tracefs or perf.

kernel/kprobes.c, kernel/trace/trace_kprobe.c. Several kprobes at one place hang on one that stands for them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64
from vmaforensics.views.stacks.modules import Part
from vmaforensics.views.structures.circular_lists import follow_list

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_LISTS: Final = 64  # KPROBE_TABLE_SIZE (include/linux/kprobes.h)
_MOST: Final = 1 << 14
_NAME: Final = 128


@table(struct="kprobe")
class Probes(Table):
    """A row is a ``struct kprobe``."""

    probe: U64
    after: U64 = member("hlist.next")
    addr: U64 = member("addr")
    pre_handler: U64 = member("pre_handler")
    post_handler: U64 = member("post_handler")
    flags: U32 = member("flags")
    insn: U64 = member("ainsn.insn?")


class FoundProbes(NamedTuple):
    """Probes, what each is called in tracefs (empty where it has no name there), and where their copies lie."""

    probes: Probes
    names: tuple[bytes, ...]
    calls: U64  # the trace_event_call of each, 0 for none
    slots: Part
    whole: bool


def find_probes(kernel: Kernel) -> FoundProbes:
    """Every kprobe, those that share a place each by itself."""
    head = kernel.symbols.get("kprobe_table")
    none = FoundProbes(Probes.zeros(0), (), np.zeros(0, np.uint64), _slots(kernel), whole=False)
    if head is None or not kernel.has("kprobe", "hlist.next"):
        return none
    heads, ok = kernel.words(np.array([head], np.uint64), _LISTS)
    if not ok[0]:
        return none
    at, seen, whole, room = heads[0][heads[0] != 0], np.zeros(0, np.uint64), True, _MOST
    found = [Probes.zeros(0)]
    link = np.uint64(kernel.offset("kprobe", "hlist.next"))
    while len(at) and len(seen) < _MOST:
        usable = kernel.arch.kernel_pointer(at) & ~np.isin(at, seen)
        whole &= bool(usable.all())
        at = at[usable]
        seen = distinct(seen, at)
        rows, read = kernel.gather(Probes, at - link)
        rows.probe[:] = at - link
        whole &= bool(read.all())
        rows = rows.take(read)
        found.append(rows)
        for probe in rows.probe.tolist():
            shared = _shared(kernel, probe, room)
            room -= len(shared)
            found.append(shared)
        whole &= room > 0
        at = rows.after[rows.after != 0]
    probes = Probes.concatenate(found)
    stands_for_all = kernel.symbols.get("aggr_pre_handler")
    probes = probes.take(probes.pre_handler != np.uint64(stands_for_all or 0))
    names, calls = _names(kernel, probes)
    return FoundProbes(probes, names, calls, _slots(kernel), whole)


def _shared(kernel: Kernel, probe: int, most: int) -> Probes:
    """The probes that hang on one (``list``), which is alone otherwise."""
    link = kernel.offset("kprobe", "list")
    places, _ = follow_list(kernel, probe + link, most)
    rows, ok = kernel.gather(Probes, places - np.uint64(link))
    rows.probe[:] = places - np.uint64(link)
    return rows.take(ok)


def _names(kernel: Kernel, probes: Probes) -> tuple[tuple[bytes, ...], U64]:
    """(GROUP/EVENT, trace_event_call) of those that tracefs or perf made: part of a ``struct trace_kprobe``."""
    names, calls = [b""] * len(probes), np.zeros(len(probes), np.uint64)
    handlers = [kernel.symbols.get(name) for name in ("kprobe_dispatcher", "pre_handler_kretprobe")]
    own = np.isin(probes.pre_handler, np.array([at for at in handlers if at is not None], np.uint64))
    if not kernel.has("trace_kprobe", "rp.kp") or not kernel.has("trace_probe", "event") or not own.any():
        return tuple(names), calls
    rows = np.flatnonzero(own)
    with np.errstate(over="ignore"):
        made = probes.probe[rows] - np.uint64(kernel.offset("trace_kprobe", "rp.kp"))
    events, ok = kernel.gather_member("trace_kprobe", "tp.event", made)
    called, ok_name = kernel.gather_member("trace_probe_event", "call.name", events)
    groups, ok_group = kernel.gather_member("trace_probe_event", "class.system", events)
    strings = kernel.strings(called, _NAME), kernel.strings(groups, _NAME)
    for row, known, name, group in zip(rows.tolist(), (ok & ok_name & ok_group).tolist(), *strings, strict=True):
        if known and name and group:
            names[row] = group + b"/" + name
    with np.errstate(over="ignore"):
        calls[rows[ok]] = events[ok] + np.uint64(kernel.offset("trace_probe_event", "call"))
    return tuple(names), calls


def _slots(kernel: Kernel) -> Part:
    """Pages that hold copies of probed instructions, and code that was made for probes."""
    starts = [np.zeros(0, np.uint64)]
    for name in ("kprobe_insn_slots", "kprobe_optinsn_slots"):
        cache = kernel.symbols.get(name)
        if cache is None or not kernel.has("kprobe_insn_cache", "pages") or not kernel.has("kprobe_insn_page", "insns"):
            continue
        places, _ = follow_list(kernel, cache + kernel.offset("kprobe_insn_cache", "pages"), _MOST)
        pages = places - np.uint64(kernel.offset("kprobe_insn_page", "list"))
        insns, ok = kernel.gather_member("kprobe_insn_page", "insns", pages)
        starts.append(insns[ok])
    start = np.concatenate(starts)
    return Part(start, start + np.uint64(kernel.arch.page_size))
