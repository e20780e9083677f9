"""Where each CPU keeps its copies of per-CPU variables (include/linux/percpu-defs.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel

_MOST_CPUS = 8192  # CONFIG_NR_CPUS with MAXSMP


def per_cpu_offsets(kernel: Kernel) -> U64:
    """``__per_cpu_offset[cpu]`` of each possible CPU; just 0 without CONFIG_SMP."""
    table, many = kernel.symbols.get("__per_cpu_offset"), kernel.symbols.get("nr_cpu_ids")
    if table is None:
        return np.zeros(1, np.uint64)
    count = 1
    if many is not None:
        data, ok = kernel.space.gather(np.array([many], np.uint64), 4)
        count = min(max(int(data.view("<u4")[0, 0]), 1), _MOST_CPUS) if ok[0] else 1
    words, ok = kernel.words(np.uint64(table) + np.arange(count, dtype=np.uint64) * np.uint64(8), 1)
    offsets: U64 = words[ok, 0]
    return offsets


def on_each_cpu(kernel: Kernel, variable: str) -> U64:
    """Address of a per-CPU variable on each possible CPU; none if the kernel has no such variable."""
    at = kernel.symbols.get(variable)
    if at is None:
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        where: U64 = np.uint64(at % (1 << 64)) + per_cpu_offsets(kernel)
    return where
