"""How the kernel's complaints begin: which line is which kind of complaint.

Only lines that the kernel itself wrote are held against these: what a program wrote may say anything.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cache
from typing import Final


class Kind(StrEnum):
    """Kinds of complaints, and of ends. The values are part of fingerprints and of the JSON form: they stay."""

    PANIC = "panic"
    SYSRQ = "sysrq"
    NULL_POINTER = "null-pointer"
    PAGE_FAULT = "page-fault"
    PROTECTION_FAULT = "general-protection-fault"
    BUG = "kernel-bug"
    EXCEPTION = "exception"
    OOPS = "oops"
    WARNING = "warning"
    BAD_PAGE_MAP = "bad-page-map"
    BAD_PAGE_STATE = "bad-page-state"
    BAD_RSS = "bad-rss-counter"
    PAGE_TABLE_LEAK = "nonzero-pgtables-bytes"
    LIST_CORRUPTION = "list-corruption"
    SLAB = "slab-corruption"
    MAPLE_TREE = "maple-tree"
    STACK_CORRUPTION = "stack-corruption"
    USE_AFTER_FREE = "kasan"
    SOFT_LOCKUP = "soft-lockup"
    HARD_LOCKUP = "hard-lockup"
    RCU_STALL = "rcu-stall"
    HUNG_TASK = "hung-task"
    OUT_OF_MEMORY = "out-of-memory"
    NMI = "nmi"
    MACHINE_CHECK = "machine-check"
    INIT_DIED = "init-died"
    NO_ROOT = "no-root-file-system"
    TAINT = "taint"
    OTHER_BUG = "bug"


_EXCEPTIONS: Final = (
    r"(Oops: )?((traps: )?PANIC: double fault|invalid opcode|divide error|stack segment|double fault|int3|CFI failure|"
    r"kernel stack overflow)\b"
)
PANIC: Final = "Kernel panic - not syncing: "
# The first that fits counts. Sources: arch/x86/mm/fault.c, arch/x86/kernel/{traps,nmi,dumpstack}.c, lib/bug.c,
# lib/list_debug.c, kernel/{panic,watchdog,hung_task,fork}.c, kernel/rcu/tree_stall.h, mm/{memory,page_alloc}.c,
# mm/oom_kill.c, mm/slub.c, include/linux/maple_tree.h.
_BEGINNINGS: Final = (
    (Kind.PANIC, PANIC),
    (Kind.SYSRQ, r"sysrq: (SysRq : )?Trigger a crash"),
    (Kind.NULL_POINTER, r"BUG: (kernel NULL pointer dereference|unable to handle kernel NULL pointer dereference)"),
    (Kind.PAGE_FAULT, r"BUG: unable to handle (kernel paging request|page fault)"),
    (Kind.BAD_PAGE_MAP, r"BUG: Bad page map in process "),
    (Kind.BAD_PAGE_STATE, r"BUG: Bad page (state|cache) in process "),
    (Kind.BAD_RSS, r"BUG: Bad rss-counter state "),
    (Kind.PAGE_TABLE_LEAK, r"BUG: non-zero pgtables_bytes on freeing mm: "),
    (Kind.USE_AFTER_FREE, r"BUG: (KASAN|KFENCE|KMSAN|KCSAN): "),
    (Kind.SOFT_LOCKUP, r"(watchdog: )?BUG: soft lockup - CPU#"),
    (Kind.HARD_LOCKUP, r"((NMI )?watchdog: )?(Watchdog detected hard LOCKUP|CPU\d+: Watchdog detected hard LOCKUP)"),
    (Kind.OTHER_BUG, r"BUG: "),
    (Kind.BUG, r"kernel BUG at "),
    (Kind.PROTECTION_FAULT, r"(Oops: )?general protection fault"),
    (Kind.EXCEPTION, _EXCEPTIONS),
    (Kind.OOPS, r"Oops: "),
    (Kind.LIST_CORRUPTION, r"list_(add|del) (corruption|double add)"),
    (Kind.SLAB, r"BUG \S+ \((Not tainted|Tainted: [^)]*)\): "),
    (Kind.MAPLE_TREE, r"(BUG|WARN) at \w+:\d+ \(\d+\)$"),
    (Kind.WARNING, r"WARNING: (CPU: \d+ PID: \d+ at |[\w/.-]+:\d+ at )"),
    (Kind.RCU_STALL, r"(rcu: )?INFO: rcu\w* (detected|self-detected) (expedited )?stall"),
    (Kind.HUNG_TASK, r"INFO: task .+ blocked (in I/O wait )?for more than \d+ seconds"),
    (Kind.OUT_OF_MEMORY, r"(\S.* invoked oom-killer: |Out of memory: |Memory cgroup out of memory: )"),
    (Kind.NMI, r"(Uhhuh\. NMI received|NMI: PCI system error|NMI: IOCK error)"),
    (Kind.MACHINE_CHECK, r"(mce: )?\[Hardware Error\]: "),
)  # fmt: skip
# Without one of these words no line is a complaint.
WORDS: Final = (
    *(b"panic", b"BUG", b"Oops", b"WARN", b"INFO", b"fault", b"sysrq", b"corruption", b"double add", b"NMI", b"LOCKUP"),
    *(b"oom", b"memory", b"Error", b"opcode", b"divide", b"segment", b"int3", b"overflow", b"CFI"),
)

# What a panic gives as its reason says how it came to it.
_REASONS: Final = (
    (Kind.SYSRQ, r"sysrq triggered crash"),
    (Kind.OUT_OF_MEMORY, r"(Out of memory|System is deadlocked on memory)"),
    (Kind.HUNG_TASK, r"hung_task: "),
    (Kind.SOFT_LOCKUP, r"softlockup: "),
    (Kind.HARD_LOCKUP, r"(Hard LOCKUP|Watchdog detected hard LOCKUP)"),
    (Kind.RCU_STALL, r"RCU Stall"),
    (Kind.NMI, r"(NMI: |An NMI occurred|NMI IOCK error)"),
    (Kind.MACHINE_CHECK, r"(Fatal [mM]achine check|Machine check|Fatal local machine check|Timeout: Not all CPUs)"),
    (Kind.WARNING, r"(kernel: )?panic_on_warn set"),
    (Kind.STACK_CORRUPTION, r"(stack-protector: |corrupted stack end)"),
    (Kind.INIT_DIED, r"(Attempted to kill init|No working init found|Requested init )"),
    (Kind.NO_ROOT, r"VFS: Unable to mount root"),
    (Kind.OOPS, r"Fatal exception"),
    (Kind.TAINT, r"panic_on_taint set"),
)

# The kinds after which the task that met them does not go on.
FATAL: Final = frozenset(
    {
        Kind.NULL_POINTER,
        Kind.PAGE_FAULT,
        Kind.PROTECTION_FAULT,
        Kind.BUG,
        Kind.EXCEPTION,
        Kind.OOPS,
        Kind.LIST_CORRUPTION,
    }
)
# The kinds that an interrupt notices, not the code that is to blame.
INTERRUPTING: Final = frozenset({Kind.NMI, Kind.SOFT_LOCKUP, Kind.HARD_LOCKUP, Kind.RCU_STALL})


@cache
def _compiled(patterns: tuple[tuple[Kind, str], ...]) -> tuple[tuple[Kind, re.Pattern[str]], ...]:
    """Made when they are first needed, for most kernels complain of nothing."""
    return tuple((kind, re.compile(text)) for kind, text in patterns)


def kind_of(line: str) -> Kind | None:
    """The kind of complaint that begins with ``line``; None for any other line.

    >>> kind_of("BUG: Bad page map in process cat  pte:8000000012345067 pmd:01234067")
    <Kind.BAD_PAGE_MAP: 'bad-page-map'>
    """
    return next((kind for kind, pattern in _compiled(_BEGINNINGS) if pattern.match(line)), None)


def reason_of(text: str) -> Kind:
    """What a panic of this text came from; :attr:`Kind.PANIC` where the text is of no kind that is known.

    >>> reason_of("sysrq triggered crash")
    <Kind.SYSRQ: 'sysrq'>
    """
    return next((kind for kind, pattern in _compiled(_REASONS) if pattern.match(text)), Kind.PANIC)
