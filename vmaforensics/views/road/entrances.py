"""Where the kernel is entered and where it asks others: system calls, exceptions, security modules, tracepoints."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.arch.branches import VectorTable
from vmaforensics.columns.lookup import difference, distinct
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.road.pointers import Group, Source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.arch.branches import Vectors
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.pointers import PointerLog

_MOST: Final = 1 << 16
_NUMBERS: Final = 512  # of system calls that are tried where no table says how many there are
_JUMPS: Final = 4  # a switch of fewer cases is compiled without a table
_MOST_PROBES: Final = 64  # of one tracepoint
_MOST_HOOKS: Final = 64  # of one list of a security hook: one for each security module


def read_system_calls(kernel: Kernel, log: PointerLog) -> None:
    """Every entry of the tables of system calls."""
    for name, calls in kernel.shared(_tables).items():
        log.add(Source.SYSCALL, Group(name=name), calls.at, calls.target, calls.ok, misled=calls.misled)


def read_switches(kernel: Kernel, log: PointerLog, patched: U64) -> None:
    """Where each number goes that a compiled switch decides on, beside what the table of the same calls holds.

    ``patched`` are places where the kernel puts calls of tracers, that do nothing here.
    """
    symbols = kernel.symbols.by_address()
    for name, table in kernel.arch.system_call_switches:
        start = kernel.symbols.get(name)
        if start is None:
            continue
        end = int(symbols.nearest(np.array([start], np.uint64)).end[0])
        code, ok = kernel.space.gather(np.array([start], np.uint64), min(end - start, _MOST))
        if not ok[0]:
            log.unread += 1
            continue
        code = code[0]
        for at in patched[(patched >= np.uint64(start)) & (patched < np.uint64(end))].tolist():
            code[at - start : at - start + kernel.arch.patch_size] = kernel.arch.no_operation
        calls = kernel.shared(_tables).get(table)
        numbers = np.arange(_NUMBERS if calls is None else len(calls.at), dtype=np.uint64)
        found = kernel.arch.follow_switch(code, start, numbers, partial(_words, kernel))
        known = found.at != 0
        if not known.all():
            log.cut_short.append(f"{name}, which decides on system calls")
        misled = _no_system_calls(kernel, found.target)
        if calls is not None:
            misled |= calls.ok & calls.function & ~calls.misled & (calls.target != found.target)
        log.add(
            Source.SWITCH,
            Group(name=name),
            found.at[known],
            found.target[known],
            np.ones(int(known.sum()), np.bool_),
            word=numbers[known].tolist(),
            misled=misled[known],
        )


def _words(kernel: Kernel, at: U64) -> tuple[U64, Bools]:
    words, ok = kernel.words(at, 1)
    return words[:, 0], ok


class _Calls(NamedTuple):
    """Elements of a table of system calls."""

    at: U64
    target: U64
    ok: Bools  # held
    function: Bools  # it leads to where a symbol lies
    misled: Bools  # to one of a function that is none of a system call


def _tables(kernel: Kernel) -> dict[str, _Calls]:
    """The tables of system calls that the kernel has, by their symbols."""
    places = {name: kernel.symbols.get(name) for name in kernel.arch.system_call_tables}
    return {name: _calls(kernel, at) for name, at in places.items() if at is not None}


def _calls(kernel: Kernel, table: int) -> _Calls:
    """All elements of the table at ``table``.

    The next symbol may lie further on. Behind the last function of a system call, an element that is no address ends
    the table, and so do places within one function: those a compiled switch jumps to, whose tables have no symbols.
    """
    symbols = kernel.symbols.by_address()
    end = int(symbols.nearest(np.array([table], np.uint64)).end[0])
    at = np.arange(table, min(end, table + 8 * _MOST), 8, dtype=np.uint64)
    target, ok = _words(kernel, at)
    row, start, after = symbols.nearest(target)
    function, misled = (row >= 0) & (start == target), _no_system_calls(kernel, target)
    own = np.flatnonzero(ok & function & ~misled)
    last = int(own[-1]) + 1 if len(own) else 0
    inside = ok & (start < target) & (target < after) & (after < symbols.addresses[-1])
    jumps = inside[_JUMPS - 1 :].copy()
    for back in range(1, _JUMPS):
        before = slice(_JUMPS - 1 - back, len(at) - back)
        jumps &= inside[before] & (start[before] == start[_JUMPS - 1 :])
    over = ~kernel.arch.kernel_pointer(target)
    over[: len(jumps)] |= jumps
    behind = np.flatnonzero(over[last:])
    count = last + int(behind[0]) if len(behind) else len(at)
    return _Calls(at[:count], target[:count], ok[:count], function[:count], misled[:count])


def _no_system_calls(kernel: Kernel, targets: U64) -> Bools:
    """Which functions are none of a system call, by all their names."""
    symbols = kernel.symbols.by_address()
    nearest = symbols.nearest(targets)
    found = np.zeros(len(targets), np.bool_)
    for row in np.flatnonzero((nearest.row >= 0) & (nearest.start == targets)).tolist():
        last = int(nearest.row[row])
        first = int(np.searchsorted(symbols.addresses, symbols.addresses[last], "left"))
        names = [symbols.name(place) for place in range(first, last + 1)]
        found[row] = not any(name.startswith(kernel.arch.system_call_names) for name in names)
    return found


def read_vectors(kernel: Kernel, log: PointerLog, told: Iterable[int] = ()) -> None:
    """Every gate of the table of exceptions and interrupts, and where CPUs are told that it lies.

    ``told`` are addresses that registers of CPUs hold.
    """
    found = kernel.arch.vectors(kernel)
    if not len(found.at):
        return
    name = kernel.arch.vector_table
    log.add(
        Source.VECTOR,
        Group(name=name),
        found.at,
        found.handler,
        np.ones(len(found.at), np.bool_),
        word=found.number.tolist(),
        wanted=found.wanted,
        misled=_no_entries(kernel, found),
    )
    table = kernel.symbols.get(name) or 0
    for at, address, what in (
        *kernel.arch.vector_tables(kernel),
        *(VectorTable(table, address, "IDTR") for address in sorted(set(told))),
    ):
        place = kernel.space.translate(np.array([table, address], np.uint64))
        same = bool(place.mapped.all()) and place.pa[0] == place.pa[1]
        rows = np.array([at], np.uint64), np.array([table if same else address], np.uint64)
        # CPUs run with it, so that what is not mapped is what the image lacks the page tables of.
        log.add(Source.VECTOR_TABLE, Group(name=what), *rows, place.mapped[1:], wanted=[(name,)])


def _no_entries(kernel: Kernel, found: Vectors) -> Bools:
    """Which gates lead neither to the function that belongs there nor, if several may, to code for entering."""
    low, high = (kernel.symbols.get(name) for name in kernel.arch.entry_text)
    start, end = kernel.symbols.get("_stext") or 0, kernel.symbols.get("_etext") or 0
    own = (found.handler >= np.uint64(start)) & (found.handler < np.uint64(end))
    if low is not None and high is not None:
        own &= (found.handler < np.uint64(low)) | (found.handler >= np.uint64(high))
    else:
        own[:] = False
    for row, names in enumerate(found.wanted):
        places = [at for name in names for at in kernel.symbols.find(name)]
        if places:
            own[row] = int(found.handler[row]) not in places
    return own


def read_security_hooks(kernel: Kernel, log: PointerLog) -> None:
    """The functions of security modules: lists up to 6.11, static calls since (417c5643cd67)."""
    if not kernel.has("security_hook_list", "hook"):
        return
    hook = np.uint64(kernel.offset("security_hook_list", "hook"))
    at, unread = _first_hooks(kernel)
    log.unread += unread
    seen = np.zeros(0, np.uint64)
    for _ in range(_MOST_HOOKS):
        if not len(at) or len(seen) > _MOST:
            break
        words, ok = kernel.words(at + hook, 1)  # a union of functions
        group = Group(name="security_hook_list", struct="security_hook_list.hook")
        log.add(Source.LSM, group, at + hook, words[:, 0], ok, home=at)
        after, linked = kernel.gather_member("security_hook_list", "list.next?", at)
        log.unread += int((~linked).sum())
        seen = distinct(seen, at)
        at = difference(after[linked & kernel.arch.kernel_pointer(after)], seen)
    log.unread += len(at)


def _first_hooks(kernel: Kernel) -> tuple[U64, int]:
    """The first of each list of functions, and how many heads of lists could not be read."""
    heads, calls = (kernel.symbols.get(name) for name in ("security_hook_heads", "static_calls_table"))
    if heads is not None and kernel.types.struct("security_hook_heads") is not None:
        count = kernel.sizeof("security_hook_heads") // 8
        words, ok = kernel.words(heads + np.arange(count, dtype=np.uint64) * np.uint64(8), 1)
        values = words[:, 0]
    elif calls is not None and kernel.has("lsm_static_call", "hl") and kernel.types.struct("lsm_static_calls_table"):
        size = kernel.sizeof("lsm_static_call")
        count = kernel.sizeof("lsm_static_calls_table") // size
        at = calls + np.arange(count, dtype=np.uint64) * np.uint64(size)
        values, ok = kernel.gather_member("lsm_static_call", "hl", at)
    else:
        values, ok = np.zeros(0, np.uint64), np.zeros(0, np.bool_)
    return distinct(values[ok & kernel.arch.kernel_pointer(values)]), int((~ok).sum())


def read_tracepoints(kernel: Kernel, log: PointerLog) -> None:
    """The functions that tracepoints call: arrays of ``struct tracepoint_func`` that end with an empty one."""
    start, stop = (kernel.symbols.get(f"__{end}___tracepoints_ptrs") for end in ("start", "stop"))
    if start is None or stop is None or not kernel.has("tracepoint", "funcs") or not 0 < stop - start < _MOST * 8:
        return
    where = np.arange(start, stop - 3, 4, dtype=np.uint64)  # distances of 32 bits (CONFIG_HAVE_ARCH_PREL32_RELOCATIONS)
    data, ok = kernel.space.gather(where, 4)
    distance = data.view("<i4")[:, 0].astype(np.int64).view(np.uint64)
    with np.errstate(over="ignore"):
        points = (where + distance)[ok]
    log.unread += int((~ok).sum())
    arrays, ok = kernel.gather_member("tracepoint", "funcs", points)
    log.unread += int((~ok).sum())
    arrays = arrays[ok & kernel.arch.kernel_pointer(arrays)]
    step, offset = np.uint64(kernel.sizeof("tracepoint_func")), np.uint64(kernel.offset("tracepoint_func", "func"))
    for _ in range(_MOST_PROBES):
        if not len(arrays):
            break
        words, ok = kernel.words(arrays + offset, 1)
        log.unread += int((~ok).sum())
        used = ok & (words[:, 0] != 0)
        home = arrays[used]
        group = Group(name="tracepoint", struct="tracepoint_func.func")
        log.add(Source.TRACEPOINT, group, home + offset, words[used, 0], np.ones(len(home), np.bool_), home=home)
        arrays = home + step
