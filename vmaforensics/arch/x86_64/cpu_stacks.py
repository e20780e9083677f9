"""Stacks that an x86-64 kernel has for each CPU, and how large that of a task is.

arch/x86/include/asm/page_64_types.h and cpu_entry_area.h, arch/x86/kernel/irq_64.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.unwinding import Range

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.columns.types import U64

# stack_type_name of arch/x86/kernel/dumpstack_64.c, in the order of their kinds.
NAMES = ("TASK", "IRQ", "ENTRY_TRAMPOLINE", "#DF", "NMI", "#DB", "#MC", "#VC", "#VC2")
_IRQ, _ENTRY, _FIRST_EXCEPTION = 1, 2, 3
# Members of struct cea_exception_stacks, in the order of NAMES; a guard page follows each.
_EXCEPTIONS = ("DF", "NMI", "DB", "MCE", "VC", "VC2")
_STRUCT = "cea_exception_stacks"
_SIZES = (16 << 10, 32 << 10, 64 << 10)  # THREAD_SIZE, with KASAN twice and more
_PAGE = 4096


def thread_size(kernel: KernelReader) -> int:
    """THREAD_SIZE: as large as the stack of init_task, which the linker script has put symbols around."""
    for first, last in (("__start_init_stack", "__end_init_stack"), ("__start_init_task", "__end_init_task")):
        start, end = kernel.symbols.get(first), kernel.symbols.get(last)
        if start is not None and end is not None and end - start in _SIZES:
            return end - start
    return _SIZES[0]


def cpu_stacks(kernel: KernelReader, offsets: U64, size: int) -> Range:
    """Stacks of each CPU for interrupts (as large as a task's: ``size``), exceptions, and entry from user mode."""
    parts = [_interrupts(kernel, offsets, size), *_exceptions(kernel, offsets)]
    found = Range.concatenate(parts)
    found = found.take((found.start < found.end) & (found.start >= np.uint64(1 << 63)))
    return found.sort_by(found.start)


def _ranges(start: U64, end: U64, kind: int) -> Range:
    """A row per CPU; addresses that could not be found are 0."""
    known = np.flatnonzero((start != 0) & (end > start))
    rows = Range.zeros(len(known))
    rows.start[:], rows.end[:], rows.kind[:], rows.cpu[:] = start[known], end[known], kind, known
    return rows


def _interrupts(kernel: KernelReader, offsets: U64, size: int) -> Range:
    """hardirq_stack_ptr, from 6.2 to 6.14 in pcpu_hot, is the top of the stack or the word below it."""
    variable, within = kernel.symbols.get("hardirq_stack_ptr"), 0
    if kernel.has("pcpu_hot", "hardirq_stack_ptr"):
        variable, within = kernel.symbols.get("pcpu_hot"), kernel.offset("pcpu_hot", "hardirq_stack_ptr")
    tops = _pointers(kernel, offsets, variable, within)
    with np.errstate(over="ignore"):
        ends = (tops + np.uint64(_PAGE - 1)) & ~np.uint64(_PAGE - 1)
        return _ranges(np.where(tops != 0, ends - np.uint64(size), tops), np.where(tops != 0, ends, tops), _IRQ)


def _exceptions(kernel: KernelReader, offsets: U64) -> list[Range]:
    """The exception stacks in the cpu_entry_area, and the entry stack beside them."""
    at = _pointers(kernel, offsets, kernel.symbols.get(_STRUCT), 0)
    found = []
    with np.errstate(over="ignore"):
        for place, name in enumerate(_EXCEPTIONS):
            following = [*(f"{other}_stack_guard" for other in _EXCEPTIONS[place + 1 :]), "IST_top_guard"]
            ends = [kernel.offset(_STRUCT, guard) for guard in following if kernel.has(_STRUCT, guard)]
            if kernel.has(_STRUCT, f"{name}_stack"):
                low = kernel.offset(_STRUCT, f"{name}_stack")
                high = min([end for end in ends if end > low], default=low)
                known = at != 0
                start = np.where(known, at + np.uint64(low), at)
                found.append(_ranges(start, np.where(known, at + np.uint64(high), at), _FIRST_EXCEPTION + place))
        if kernel.has("cpu_entry_area", "estacks") and kernel.has("cpu_entry_area", "entry_stack_page"):
            by = kernel.offset("cpu_entry_area", "entry_stack_page") - kernel.offset("cpu_entry_area", "estacks")
            start = np.where(at != 0, at + np.uint64(by % (1 << 64)), at)
            found.append(_ranges(start, np.where(at != 0, start + np.uint64(_PAGE), at), _ENTRY))
    return found


def _pointers(kernel: KernelReader, offsets: U64, variable: int | None, within: int) -> U64:
    """The per-CPU pointer ``within`` bytes into a per-CPU variable; 0 where there is none."""
    if variable is None or not len(offsets):
        return np.zeros(len(offsets), np.uint64)
    with np.errstate(over="ignore"):
        words, ok = kernel.words(offsets + np.uint64((variable + within) % (1 << 64)), 1)
    return np.where(ok, words[:, 0], np.uint64(0))
