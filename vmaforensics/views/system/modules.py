"""The modules of the kernel, from its own list (kernel/module/main.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U8, U64, U8Wide

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST: Final = 1 << 14
UNFORMED: Final = 3  # MODULE_STATE_UNFORMED: still being set up; /proc/modules leaves it out
STATES: Final = ("live", "coming", "going", "unformed")  # enum module_state


@table(struct="module")
class NamedModules(Table):
    """A row is a ``struct module``."""

    module: U64  # address
    name: U8Wide = member("name")  # NULs behind the text
    state: U8 = member("state")  # as in STATES

    def name_of(self, row: int) -> bytes:
        """The name of a module."""
        raw: bytes = self.name[row].tobytes()
        return raw.split(b"\0", 1)[0]


@table(struct="module")
class Modules(NamedModules):
    """Modules in the order of the list: the newest first, as in /proc/modules."""

    taints: U64 = member("taints?")  # TAINT_* bits
    size: I64  # bytes of code and data, those of its init part included (module_total_size)
    core: I64 = member("core_layout.size?")  # up to 6.3
    init: I64 = member("init_layout.size?")


class ModuleList(NamedTuple):
    """The modules that could be read, and why there are no more."""

    modules: Modules
    problems: tuple[str, ...]


def read_modules(kernel: Kernel) -> ModuleList:
    """Every module that the list from ``modules`` on leads to."""
    head = kernel.symbols.get("modules")
    if head is None or not kernel.has("module", "list"):
        return ModuleList(Modules.zeros(0), ("the list of modules is not known",))
    places, problem = _follow(kernel, head)
    modules, ok = kernel.gather(Modules, np.array(places, np.uint64) - np.uint64(kernel.offset("module", "list")))
    modules.module[:] = np.array(places, np.uint64) - np.uint64(kernel.offset("module", "list"))
    modules.size[:] = modules.core + modules.init + _parts(kernel, modules.module)
    problems = [problem] if problem else []
    if not ok.all():
        problems.append(f"{int((~ok).sum())} modules of the list: not in the dump or not mapped")
    return ModuleList(modules.take(ok & (modules.state != UNFORMED)), tuple(problems))


def _follow(kernel: Kernel, head: int) -> tuple[list[int], str]:
    """Every ``list_head`` from ``head`` on, without it, and why the list was not followed to its end."""
    found: list[int] = []
    seen = {head}
    at = head
    while len(found) < _MOST:
        words, ok = kernel.words(np.array([at], np.uint64), 1)
        after = int(words[0, 0])
        if not ok[0] or not kernel.arch.kernel_pointer(words[0])[0]:
            return found, f"the list of modules breaks off at {at:#x}"
        if after == head:
            return found, ""
        if after in seen:
            return found, f"the list of modules leads back into itself at {at:#x}"
        seen.add(after)
        found.append(after)
        at = after
    return found, f"the list of modules has more than {_MOST:,} elements"


def _parts(kernel: Kernel, modules: U64) -> I64:
    """Bytes of all parts of each module where they lie in ``mem[]`` (6.4, ac3b43283923)."""
    total = np.zeros(len(modules), np.int64)
    if not kernel.has("module", "mem") or not kernel.has("module_memory", "size"):
        return total
    parts, size = kernel.member("module", "mem"), kernel.sizeof("module_memory")
    for part in range(parts.count or 1):
        with np.errstate(over="ignore"):
            places = modules + np.uint64(parts.offset + part * size)
        sizes, ok = kernel.gather_member("module_memory", "size", places)
        total += np.where(ok, sizes, np.uint64(0)).astype(np.int64)
    return total
