"""Which modules use which: ``module_use`` (include/linux/module.h), and whose memory an address is in.

``ref_module`` (kernel/module/main.c) makes a ``module_use`` when a symbol of another module is resolved. A constant of
one module that leads into another that it does not use was written after the module was loaded.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import covering_rows, values_at
from vmaforensics.views.stacks.modules import module_memory
from vmaforensics.views.structures.circular_lists import follow_list

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.kernel.kernel import Kernel


class _Memory(NamedTuple):
    """Parts of the memory of modules, sorted by start."""

    start: U64
    end: U64
    module: U64  # address of the struct module


class ModuleUses:
    """Asks of whom an address is, and whether modules have to do with each other."""

    def __init__(self, kernel: Kernel, modules: U64) -> None:
        self._kernel, self._modules = kernel, modules
        self._known: dict[int, frozenset[int] | None] = {}

    def of(self, addresses: U64) -> U64:
        """The module in whose memory each address lies; 0 for none."""
        memory = self._memory
        return values_at(memory.module, covering_rows(memory.start, memory.end, addresses))

    def alien(self, module: U64, *own: U64) -> Bools:
        """Is each a module, and has nothing to do with any of ``own`` beside it?"""
        alien: Bools = module != 0
        for other in own:
            alien &= ~self.related(module, other)
        return alien

    def related(self, one: U64, other: U64) -> Bools:
        """Is each pair one module, or does one of them use the other, or may it? Nothing is related to no module."""
        both = (one != 0) & (other != 0)
        related: Bools = both & (one == other)
        apart = np.flatnonzero(both & (one != other))
        pairs, of = np.unique(np.stack([one[apart], other[apart]], axis=1), axis=0, return_inverse=True)
        answers = np.array([self._use_each_other(*pair) for pair in pairs.tolist()], np.bool_)
        related[apart] = answers[of.reshape(-1)]
        return related

    def _use_each_other(self, one: int, other: int) -> bool:
        used, used_by_other = self._used_by(one), self._used_by(other)
        return used is None or used_by_other is None or other in used or one in used_by_other

    def _used_by(self, module: int) -> frozenset[int] | None:
        """The modules that a module uses; None where the list of them cannot be read whole."""
        if module not in self._known:
            self._known[module] = self._read_used_by(module)
        return self._known[module]

    def _read_used_by(self, module: int) -> frozenset[int] | None:
        kernel = self._kernel
        if not kernel.has("module", "target_list") or not kernel.has("module_use", "target_list"):
            return None
        head = module + kernel.offset("module", "target_list")
        links, whole = follow_list(kernel, head, len(self._modules))
        uses = links - np.uint64(kernel.offset("module_use", "target_list"))
        target, ok = kernel.gather_member("module_use", "target", uses)
        return frozenset(target.tolist()) if whole and bool(ok.all()) else None

    @cached_property
    def _memory(self) -> _Memory:
        parts = module_memory(self._kernel, self._modules)
        start = np.concatenate([np.zeros(0, np.uint64), *(part.start for part in parts)])
        end = np.concatenate([np.zeros(0, np.uint64), *(part.end for part in parts)])
        module = np.concatenate([np.zeros(0, np.uint64), *(self._modules for _ in parts)])
        some = np.flatnonzero(start < end)
        order = some[np.argsort(start[some], kind="stable")]
        return _Memory(start[order], end[order], module[order])
