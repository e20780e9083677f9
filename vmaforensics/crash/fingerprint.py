"""A name for a crash that is the same for the same bug on another machine, to tell duplicates by.

It is made of the kind of the crash and of the functions that led to it, without what differs between boots, builds and
machines: addresses, offsets, processes, suffixes that compilers add, and the frames of the machinery that reports. What
several releases call differently, as the functions of system calls, is given one name.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEEPEST: Final = 6  # functions that count
_VERSION: Final = "1"
_SUFFIX: Final = re.compile(r"\.(isra|constprop|part|cold|llvm|lto_priv)(\.\d+)*(?=\.|$)")
_PREFIX: Final = re.compile(r"__(x64|ia32|se|do)_sys_")
_PANICS: Final = ("panic", "vpanic", "nmi_panic")
_NOISE: Final = re.compile(
    r"(__)?(dump_stack(_lvl)?|show_stack|v?panic|nmi_panic|oops_(begin|end)|die(_addr)?|__die(_body)?|no_context|bad_area\w*|"
    r"page_fault_oops|kernelmode_fixup_or_oops|exc_\w+|asm_exc_\w+|do_(trap|error_trap|user_addr_fault|invalid_op)|"
    r"(do_)?page_fault|handle_bug|report_bug|(do_)?warn(_slowpath)?\w*|crash_kexec|machine_kexec|"
    r"check_panic_on_warn|add_taint|print_\w+_stall|dump_header|print_bad_\w+|bad_page\w*|"
    r"__list_(add|del)\w*|_raw_\w+|\w*_slowpath|schedule\w*|preempt_schedule\w*|"
    r"kthread|ret_from_fork(_asm)?|do_syscall_\w+|entry_\w+|asm_\w+|\w*native_safe_halt)$"
)


def top_functions(names: Sequence[str]) -> list[str]:
    """The functions that count, innermost first, of the names of frames.

    >>> top_functions(["dump_stack_lvl", "panic", "sysrq_handle_crash", "__handle_sysrq.cold", "write_sysrq_trigger"])
    ['sysrq_handle_crash', '__handle_sysrq', 'write_sysrq_trigger']
    >>> top_functions(["delay_tsc", "panic", "oops_end", "mas_walk", "exit_mmap"])
    ['mas_walk', 'exit_mmap']
    """
    # What panic() does itself, as to wait for a reboot, stands inside of it on a stack.
    plain = [_PREFIX.sub("sys_", _SUFFIX.sub("", name)).removesuffix("_noprof") for name in names]
    first = max((row + 1 for row, name in enumerate(plain) if name in _PANICS), default=0)
    return [name for name in plain[first:] if not _NOISE.match(name)][:_DEEPEST]


def fingerprint(kind: str, functions: Sequence[str]) -> str | None:
    """The name: 16 hexadecimal digits behind the version of the rule; None without any function to go by."""
    if not functions:
        return None
    said = "\n".join((kind, *functions))
    return f"{_VERSION}:{hashlib.sha256(said.encode()).hexdigest()[:16]}"
