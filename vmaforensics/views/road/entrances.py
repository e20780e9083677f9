"""Where the kernel is entered and where it asks others: system calls, exceptions, security modules, tracepoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.types import U64
from vmaforensics.views.road.pointers import Group, Source

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.pointers import PointerLog

_MOST: Final = 1 << 16
_MOST_PROBES: Final = 64  # of one tracepoint
_MOST_HOOKS: Final = 64  # of one list of a security hook: one for each security module


def read_system_calls(kernel: Kernel, log: PointerLog) -> None:
    """Every entry of the tables of system calls; an element that is no address ends one."""
    symbols = kernel.symbols.by_address()
    for name in kernel.arch.system_call_tables:
        start = kernel.symbols.get(name)
        if start is None:
            continue
        end = int(symbols.nearest(np.array([start], np.uint64)).end[0])
        count = min((end - start) // 8, _MOST)
        at = start + np.arange(count, dtype=np.uint64) * np.uint64(8)
        words, ok = kernel.words(at, 1)
        values = words[:, 0]
        plain = kernel.arch.kernel_pointer(values)
        if plain.any():  # there may be room up to the next symbol
            last = int(np.flatnonzero(plain)[-1]) + 1
            log.add(Source.SYSCALL, Group(name=name), at[:last], values[:last], ok[:last])


def read_vectors(kernel: Kernel, log: PointerLog) -> None:
    """Every gate of the table of exceptions and interrupts."""
    found = kernel.arch.vectors(kernel)
    ok = np.ones(len(found.at), np.bool_)
    log.add(
        Source.VECTOR, Group(name=kernel.arch.vector_table), found.at, found.handler, ok, word=found.number.tolist()
    )


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
        seen = np.union1d(seen, at)
        at = np.setdiff1d(after[linked & kernel.arch.kernel_pointer(after)], seen)
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
    return np.unique(values[ok & kernel.arch.kernel_pointer(values)]), int((~ok).sum())


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
