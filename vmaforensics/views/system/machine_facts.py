"""What the kernel knows of the machine and of how it was started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_FIXED_1: Final = 1 << 11  # of avenrun (include/linux/sched/loadavg.h)
_COMMAND_LINE: Final = 1 << 13  # bytes that are read of it; COMMAND_LINE_SIZE is 2048 on x86, bootconfig adds to it
_HARDWARE: Final = 128  # bytes of dump_stack_arch_desc_str (lib/dump_stack.c)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """None: not there or not in the image."""

    hardware: bytes | None  # vendor, product and firmware, as behind "Hardware name:"
    command_line: bytes | None
    cpus: int | None  # online
    load: tuple[float, float, float] | None  # of 1, 5 and 15 minutes


def read_machine_facts(kernel: Kernel) -> MachineFacts:
    """The facts, each from its variable."""
    load = kernel.variable("avenrun", 24)
    pointer = kernel.variable("saved_command_line", 8)
    words = [] if load is None else [load >> 64 * place & (1 << 64) - 1 for place in range(3)]
    return MachineFacts(
        hardware=_text(kernel, kernel.symbols.get("dump_stack_arch_desc_str"), _HARDWARE),
        command_line=_text(kernel, pointer, _COMMAND_LINE),
        cpus=kernel.variable("__num_online_cpus", 4),
        load=(words[0] / _FIXED_1, words[1] / _FIXED_1, words[2] / _FIXED_1) if words else None,
    )


def _text(kernel: Kernel, address: int | None, limit: int) -> bytes | None:
    """The string at an address; None where there is none."""
    return None if not address else kernel.strings(np.array([address], np.uint64), limit)[0]
