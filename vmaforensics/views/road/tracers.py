"""Functions that are traced: ``ftrace_ops_list`` and what each of its ``ftrace_ops`` traces (kernel/trace/ftrace.c)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import difference
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U64, Bools
from vmaforensics.views.structures.circular_lists import follow_list

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST_OPS: Final = 1 << 12
_MOST_BITS: Final = 16  # of the size of a hash of functions
_MOST_BUCKETS: Final = 1 << 20  # of all of them
_LONGEST: Final = 1 << 12  # entries of one bucket
_MOST_ENTRIES: Final = 1 << 20  # of all of them


class OpsFlag(IntFlag):
    """FTRACE_OPS_FL_* (include/linux/ftrace.h) that are asked for."""

    ENABLED = 1 << 0


@table(struct="ftrace_ops")
class Ops(Table):
    """A row is a ``struct ftrace_ops``: who is called, from a trampoline of its own if there is one."""

    ops: U64
    linked: Bools  # on ftrace_ops_list
    everything: Bools  # no filter: whatever can be traced
    func: U64 = member("func")
    flags: U64 = member("flags")
    hash: U64 = member("func_hash")
    trampoline: U64 = member("trampoline?")
    trampoline_size: U64 = member("trampoline_size?")
    after: U64 = member("next")
    direct: U64 = member("direct_call?")


@table(struct="ftrace_hash")
class _Hashes(Table):
    bits: U64 = member("size_bits")
    buckets: U64 = member("buckets")
    count: U64 = member("count")


@table(struct="ftrace_func_entry")
class _Entries(Table):
    after: U64 = member("hlist.next")
    ip: U64 = member("ip")


@table()
class Traced(Table):
    """A function that an ``ftrace_ops`` is to trace, or that a direct call was registered for."""

    ops: I64  # row of the ops; -1: direct_functions
    ip: U64  # of its entry site


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracers:
    """See :func:`find_tracers`."""

    ops: Ops
    traced: Traced
    whole: bool  # the list led to its end, and every filter could be read


def find_tracers(kernel: Kernel) -> Tracers:
    """Every ``ftrace_ops`` that the kernel goes by, and those that only their trampolines tell of."""
    if not kernel.has("ftrace_ops", "func_hash") or kernel.symbols.get("ftrace_ops_list") is None:
        return Tracers(ops=Ops.zeros(0), traced=Traced.zeros(0), whole=False)
    linked, whole = _follow(kernel)
    others = difference(_with_trampolines(kernel), linked)
    ops, ok = kernel.gather(Ops, np.concatenate([linked, others]))
    ops.ops[:] = np.concatenate([linked, others])
    ops.linked[: len(linked)] = True
    ops = ops.take(ok)
    traced, read = _filters(kernel, ops)
    return Tracers(ops=ops, traced=traced, whole=whole and bool(ok.all()) and read)


def _follow(kernel: Kernel) -> tuple[U64, bool]:
    """The list, which ends with ``ftrace_list_end``."""
    at = kernel.variable("ftrace_ops_list", 8)
    end = kernel.symbols.get("ftrace_list_end")
    after = np.uint64(kernel.offset("ftrace_ops", "next"))
    found: list[int] = []
    while at and at != end and len(found) < _MOST_OPS:
        here = np.array([at], np.uint64)
        words, ok = kernel.words(here + after, 1)
        if at in found or not kernel.arch.kernel_pointer(here)[0] or not ok[0]:
            return np.array(found, np.uint64), False
        found.append(at)
        at = int(words[0, 0])
    return np.array(found, np.uint64), at == end


def _with_trampolines(kernel: Kernel) -> U64:
    """``ftrace_ops_trampoline_list`` (5.9): every ops that has had a trampoline made for it."""
    head = kernel.symbols.get("ftrace_ops_trampoline_list")
    if head is None or not kernel.has("ftrace_ops", "list"):
        return np.zeros(0, np.uint64)
    places, _ = follow_list(kernel, head, _MOST_OPS)
    return places - np.uint64(kernel.offset("ftrace_ops", "list"))


def _filters(kernel: Kernel, ops: Ops) -> tuple[Traced, bool]:
    """What each traces by name; ``everything`` is set of those that have no filter."""
    hashes, ok = kernel.gather_member("ftrace_ops_hash", "filter_hash", ops.hash)
    known, read = kernel.gather(_Hashes, hashes)
    ops.everything[:] = ok & ((hashes == 0) | (read & (known.count == 0)))
    rows = np.flatnonzero(ok & read & (known.count != 0))
    owner, ips, whole = _entries(kernel, known.take(rows), rows)
    direct = kernel.variable("direct_functions", 8)
    if direct:
        extra, read = kernel.gather(_Hashes, np.array([direct], np.uint64))
        more, their_ips, _ = _entries(kernel, extra.take(read), np.full(int(read.sum()), -1))
        owner, ips = np.concatenate([owner, more]), np.concatenate([ips, their_ips])
    return Traced(ops=owner.astype(np.int64), ip=ips), whole and bool(ok.all())


def _entries(kernel: Kernel, hashes: _Hashes, owner: I64) -> tuple[I64, U64, bool]:
    """(row of the owner, address) of every entry of ``hashes``, and whether all were read."""
    heads, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    whole, room = True, _MOST_BUCKETS
    for row in range(len(hashes)):
        bits = int(hashes.bits[row])
        if bits > _MOST_BITS or 1 << bits > room:
            whole = False
            continue
        room -= 1 << bits
        words, ok = kernel.words(hashes.buckets[row : row + 1], 1 << bits)
        whole &= bool(ok[0])
        used = words[0][words[0] != 0]
        heads.append(used)
        owners.append(np.full(len(used), owner[row]))
    at, whose = np.concatenate(heads), np.concatenate(owners)
    found, found_of, room = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], _MOST_ENTRIES
    for _ in range(_LONGEST):  # a bucket that leads back into itself is met as often, and no list is whole then
        usable = kernel.arch.kernel_pointer(at)
        whole &= bool(usable.all())
        at, whose = at[usable], whose[usable]
        if not len(at):
            return np.concatenate(found_of), np.concatenate(found), whole
        room -= len(at)
        if room < 0:
            break
        entries, ok = kernel.gather(_Entries, at)
        whole &= bool(ok.all())
        found.append(entries.ip[ok])
        found_of.append(whose[ok])
        going = ok & (entries.after != 0)
        at, whose = entries.after[going], whose[going]
    return np.concatenate(found_of), np.concatenate(found), False
