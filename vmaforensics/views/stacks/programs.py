"""Compiled BPF programs and what belongs to them, by the list ``bpf_kallsyms`` (kernel/bpf/core.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64, U8Wide
from vmaforensics.views.structures.circular_lists import follow_list

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST: Final = 1 << 16  # programs, trampolines and dispatchers


@table(struct="bpf_ksym")
class Programs(Table):
    """Code of programs, trampolines and dispatchers: a row is a ``struct bpf_ksym``."""

    start: U64 = member("start")
    end: U64 = member("end")
    name: U8Wide = member("name")  # NULs behind the text

    def names(self) -> tuple[bytes, ...]:
        """The name of each."""
        return tuple(row.tobytes().split(b"\0", 1)[0] for row in self.name)


class FoundPrograms(NamedTuple):
    """Code of BPF, and was the list read to its end?"""

    programs: Programs
    whole: bool


def read_programs(kernel: Kernel) -> FoundPrograms:
    """The list ``bpf_kallsyms`` (include/linux/bpf.h); none for a kernel without, or before 5.7."""
    head = kernel.symbols.get("bpf_kallsyms")
    if head is None or not kernel.has("bpf_ksym", "lnode.next"):
        return FoundPrograms(Programs.zeros(0), whole=True)
    nodes, whole = follow_list(kernel, head, _MOST)
    programs, ok = kernel.gather(Programs, nodes - np.uint64(kernel.offset("bpf_ksym", "lnode")))
    believed = ok & kernel.arch.kernel_pointer(programs.start) & (programs.start < programs.end)
    return FoundPrograms(programs.take(believed), whole and bool(ok.all()))
