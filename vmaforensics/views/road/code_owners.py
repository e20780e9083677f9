"""Who owns each address of kernel code: the kernel itself, modules, BPF, and what tracers have made for themselves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import covering_rows, values_at
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, U8, U64, Bools
from vmaforensics.views.stacks.modules import Part, module_init_text, module_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.loaded import Loaded


class Owner(IntEnum):
    """Whose code is at an address."""

    NOBODY = 0
    KERNEL = 1
    INIT = 2  # of the kernel, given back after it had booted
    MODULE = 3  # one on the list of modules
    UNLISTED = 4  # a module that is not on the list
    BPF = 5  # a program, or a trampoline to one
    TRAMPOLINE = 6  # of ftrace
    PROBE = 7  # copies of instructions for kprobes

    @property
    def text(self) -> str:
        """As people say it."""
        return (
            "no code that anybody owns",
            "the kernel",
            "the kernel's boot code",
            "a module",
            "a module that is not on the list",
            "BPF",
            "a trampoline of ftrace",
            "a slot of kprobes",
        )[self]


@table()
class Owned(Table):
    """Ranges of code; sorted by start."""

    start: U64
    end: U64  # behind the last byte
    owner: U8  # Owner
    name: I32 = column(fill=-1)  # place in the names; -1 for none


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeOwners:
    """Whose code each address lies in."""

    ranges: Owned
    names: tuple[bytes, ...]

    def of(self, addresses: U64) -> U8:
        """The :class:`Owner` of each address."""
        return values_at(self.ranges.owner, covering_rows(self.ranges.start, self.ranges.end, addresses), Owner.NOBODY)

    def places(self, addresses: U64) -> I32:
        """Where the name of the module, program or tracer that each address belongs to stands in the names; or -1."""
        return values_at(self.ranges.name, covering_rows(self.ranges.start, self.ranges.end, addresses), -1)

    def name(self, address: int) -> bytes:
        """Of the module, program or tracer that the address belongs to; empty for none."""
        place = int(self.places(np.array([address], np.uint64))[0])
        return self.names[place] if place >= 0 else b""

    def plus(self, more: Iterable[tuple[Owner, Part, Iterable[bytes]]]) -> CodeOwners:
        """These and further ranges; each with a name."""
        parts, names = [self.ranges], list(self.names)
        for owner, part, called in more:
            some: Bools = part.start < part.end
            parts.append(
                Owned.of(
                    start=part.start[some],
                    end=part.end[some],
                    owner=np.full(int(some.sum()), owner),
                    name=len(names) + np.flatnonzero(some),
                )
            )
            names += called
        ranges = Owned.concatenate(parts)
        return CodeOwners(ranges=ranges.sort_by(ranges.start), names=tuple(names))


def kernel_and_modules(kernel: Kernel, modules: Loaded) -> CodeOwners:
    """The code of the kernel image and of every module that some record leads to."""
    get = kernel.symbols.get
    image = [
        (Owner.KERNEL, get("_stext"), get("_etext")),
        (Owner.INIT, get("_sinittext"), get("_einittext")),
    ]
    known = [(owner, start, end) for owner, start, end in image if start is not None and end is not None]
    ranges = Owned.of(
        start=[start for _, start, _ in known], end=[end for _, _, end in known], owner=[owner for owner, _, _ in known]
    )
    found = CodeOwners(ranges=ranges, names=())
    names = [modules.name_of(row) for row in range(len(modules))]
    for listed, owner in ((True, Owner.MODULE), (False, Owner.UNLISTED)):
        rows = np.flatnonzero(modules.listed == listed)
        called = [names[row] for row in rows.tolist()]
        at = modules.module[rows]
        parts = (module_text(kernel, at), module_init_text(kernel, at))
        found = found.plus((owner, part, called) for part in parts)
    return found
