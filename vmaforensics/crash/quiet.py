"""Whether there is a crash case at all. A report asks this of every image, and loads the rest only if there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.crash.complaints import read_complaints
from vmaforensics.views.log.log import read_log
from vmaforensics.words.times import utc

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_NO_PANIC: Final = 0xFFFFFFFF  # PANIC_CPU_INVALID, as an unsigned number


def is_quiet(kernel: Kernel) -> bool:
    """Is it plain that the kernel neither crashed nor complained? Reads no more than that takes."""
    alive = kernel.variable("panic_cpu", 4) == _NO_PANIC and crash_time_of(kernel) is None
    log = read_log(kernel) if alive else None
    return log is not None and not read_complaints(log, kernel.arch.printed_registers).total


def crash_time_of(kernel: Kernel) -> str | None:
    """CRASHTIME of VMCOREINFO (crash_save_vmcoreinfo, kernel/vmcore_info.c): seconds, in decimal; as ISO 8601."""
    info = kernel.vmcoreinfo
    text = "" if info is None else info.values.get("CRASHTIME", "")
    return utc(int(text)) if text.isascii() and text.isdigit() and len(text) < 20 else None
