"""Words that lead to code or to a table of functions, and where they lead."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import is_in
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, I64, U8, U64, Bools
from vmaforensics.views.road.code_owners import Owner

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.code_owners import CodeOwners
    from vmaforensics.views.road.module_uses import ModuleUses


class Source(IntEnum):
    """What a word is part of."""

    OPERATIONS = 0  # a table of functions of the road
    ENTRY = 1  # a pid_entry: what is below /proc/PID
    OBJECT = 2  # an inode, dentry or open file of /proc: leads to a table
    TABLE = 3  # a table that such an object leads to
    PROC_ENTRY = 4  # a proc_dir_entry: what is below /proc beside processes
    SYSCALL = 5
    VECTOR = 6
    LSM = 7
    TRACEPOINT = 8
    MAPPED = 9  # a VMA, its file or its pages: leads to a table
    MAPPED_TABLE = 10  # a table that such an object leads to
    SWITCH = 11  # a number that a compiled switch goes by
    VECTOR_TABLE = 12  # where CPUs are told that the table of exceptions lies


class Leads(IntEnum):
    """Where a word leads."""

    NOWHERE = 0  # code or data that nobody owns
    FUNCTION = 1  # a function of the kernel's, the one that belongs there if that is known
    OTHER = 2  # another function of the kernel's than belongs there
    INSIDE = 3  # the kernel's code, but no function begins there
    MODULE = 4  # code or data of a module on the list
    UNLISTED = 5  # of a module that is not
    MADE = 6  # BPF, or code that tracers have made
    DATA = 7  # the kernel's image beside its code
    NULL = 8
    BOOT = 9  # the kernel's boot code, which was given back
    UNNAMED = 10  # the kernel's data, but no variable begins there

    @property
    def text(self) -> str:
        """As people say it."""
        return (
            "what nobody owns",
            "a function of the kernel",
            "another function of the kernel",
            "the middle of a function of the kernel",
            "a module",
            "a module that is not on the list",
            "code that BPF or a tracer has made",
            "the kernel's data",
            "nothing",
            "the kernel's boot code",
            "the middle of some data of the kernel",
        )[self]


@table()
class Pointers(Table):
    """A word that could be read."""

    at: U64
    target: U64
    source: U8  # Source
    leads: U8  # Leads
    group: I32  # place in the names of what it is part of
    word: I32  # number of the element, or offset in the structure
    wanted: I32 = column(fill=-1)  # place in the lists of functions that belong there
    home: U64  # address of the object that the word is in; 0: a static one
    modular: Bools  # its table is a module's own: functions of modules belong there
    misled: Bools  # a function of the kernel belongs there, and this is none of those that may
    alien: Bools  # it leads into a module that has nothing to do with what the word is part of


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A table or kind of object."""

    name: str
    struct: str = ""  # words are its members


@dataclass(slots=True)
class PointerLog:
    """Collects pointers of all sources, and says where they lead once all are there."""

    kernel: Kernel
    owners: CodeOwners
    modules: ModuleUses
    unlisted: U64  # those modules that are not on the list
    groups: list[Group] = field(default_factory=list)
    wanted: list[tuple[str, ...]] = field(default_factory=list)
    parts: list[Pointers] = field(default_factory=list)
    unread: int = 0
    cut_short: list[str] = field(default_factory=list)  # lists that were not read to their ends, in words

    def add(
        self,
        source: Source,
        group: Group,
        at: U64,
        target: U64,
        ok: Bools,
        *,
        word: Iterable[int] | None = None,
        wanted: Iterable[tuple[str, ...]] = (),
        home: U64 | None = None,
        modular: Bools | None = None,
        misled: Bools | None = None,
        alien: Bools | None = None,
    ) -> None:
        """Words at ``at`` that hold ``target``; those that are not ``ok`` are counted."""
        self.unread += int((~ok).sum())
        names = list(wanted)
        rows = Pointers.of(
            len(at),
            at=at,
            target=target,
            source=np.full(len(at), source),
            group=np.full(len(at), len(self.groups)),
            word=np.arange(len(at)) if word is None else np.array(list(word)),
            home=np.zeros(len(at), np.uint64) if home is None else home,
            modular=np.zeros(len(at), np.bool_) if modular is None else modular,
            misled=np.zeros(len(at), np.bool_) if misled is None else misled,
            alien=np.zeros(len(at), np.bool_) if alien is None else alien,
        )
        if names:
            rows.wanted[:] = [len(self.wanted) + place if functions else -1 for place, functions in enumerate(names)]
            self.wanted += names
        self.groups.append(group)
        self.parts.append(rows.take(ok))

    def modular(self, addresses: U64) -> Bools:
        """Which addresses lie in the memory of a module."""
        inside: Bools = self.modules.of(addresses) != 0
        return inside

    def in_kernel(self, addresses: U64) -> Bools:
        """Which addresses lie in the kernel's image."""
        get = self.kernel.symbols.get
        text, end = get("_text") or get("_stext") or 0, get("_end") or 0
        inside: Bools = (addresses >= np.uint64(text)) & (addresses < np.uint64(end))
        return inside

    def table(self) -> Pointers:
        """All of them, with where they lead."""
        rows = Pointers.concatenate([Pointers.zeros(0), *self.parts])
        rows.leads[:] = self._leads(rows)
        return rows

    def _leads(self, rows: Pointers) -> U8:
        owner = self.owners.of(rows.target)
        image = self.in_kernel(rows.target)
        module = self.modules.of(rows.target)
        nearest = self.kernel.symbols.by_address().nearest(rows.target)
        begins = nearest.start == rows.target
        leads: U8 = np.select(
            [
                rows.target == 0,
                (owner == Owner.KERNEL) & begins,
                owner == Owner.KERNEL,
                owner == Owner.INIT,
                owner == Owner.MODULE,
                owner == Owner.UNLISTED,
                (owner == Owner.BPF) | (owner == Owner.TRAMPOLINE) | (owner == Owner.PROBE),
                image & ~begins & (rows.source <= Source.PROC_ENTRY),
                image,
                is_in(module, self.unlisted),
                module != 0,
            ],
            [
                *(Leads.NULL, Leads.FUNCTION, Leads.INSIDE, Leads.BOOT, Leads.MODULE, Leads.UNLISTED, Leads.MADE),
                *(Leads.UNNAMED, Leads.DATA, Leads.UNLISTED, Leads.MODULE),
            ],
            Leads.NOWHERE,
        ).astype(np.uint8)
        leads[rows.misled & np.isin(leads, (Leads.FUNCTION, Leads.INSIDE))] = Leads.OTHER
        self._compare(rows, leads, nearest.row)
        return leads

    def _compare(self, rows: Pointers, leads: U8, symbol: I64) -> None:
        """Mark functions and tables of the kernel where another belongs; names of one address count as one."""
        symbols = self.kernel.symbols
        known = (leads == Leads.FUNCTION) | (leads == Leads.DATA)
        for row in np.flatnonzero((rows.wanted >= 0) & known).tolist():
            names = self.wanted[int(rows.wanted[row])]
            if symbols.by_address().name(int(symbol[row])) in names:
                continue
            places = [at for name in names for at in symbols.find(name)]
            if places and int(rows.target[row]) not in places:
                leads[row] = Leads.OTHER


def words_of(kernel: Kernel, addresses: U64, struct: str, *, without: tuple[str, ...] = ("owner",)) -> _Words:
    """Every word of structures of functions: (address, value, was it read, offset, which structure) of each."""
    size = kernel.sizeof(struct)
    skipped = {kernel.offset(struct, name) for name in without if kernel.has(struct, name)}
    offsets = np.array([at for at in range(0, size - 7, 8) if at not in skipped], np.int64)
    data, ok = kernel.words(addresses, size // 8)
    values = data[:, offsets // 8]
    at = addresses[:, None] + offsets.astype(np.uint64)
    row = np.repeat(np.arange(len(addresses)), len(offsets))
    return _Words(
        at=at.reshape(-1),
        value=values.reshape(-1),
        ok=np.repeat(ok, len(offsets)),
        offset=np.tile(offsets, len(addresses)),
        row=row,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """Arrays of one length."""

    at: U64
    value: U64
    ok: Bools
    offset: I64
    row: I64

    def pointers(self, kernel: Kernel) -> _Words:
        """Those that were not read, and those that hold what can be an address."""
        keep = ~self.ok | kernel.arch.kernel_pointer(self.value)
        return _Words(
            at=self.at[keep], value=self.value[keep], ok=self.ok[keep], offset=self.offset[keep], row=self.row[keep]
        )


def member_at(kernel: Kernel, struct: str, offset: int) -> str:
    """The member at an offset of a structure; the offset itself for none."""
    layout = kernel.types.struct(struct)
    names = [name for name, found in layout.fields.items() if found.offset == offset] if layout else []
    return names[-1] if names else f"+{offset:#x}"
