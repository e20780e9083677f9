"""What stands in machine code where the kernel patches it: no-operations, calls, jumps and breakpoints."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U8, U64


class BranchKind(IntEnum):
    """What an instruction is."""

    NOP = 0
    CALL = 1
    JUMP = 2
    BREAKPOINT = 3
    OTHER = 4


@table()
class Branches(Table):
    """The instruction at each of some addresses; where it is neither call nor jump, ``target`` is 0."""

    kind: U8  # BranchKind
    target: U64


class Vectors(NamedTuple):
    """Where the CPU goes on exceptions, interrupts and the like; arrays of one length."""

    at: U64  # address of the entry of the table that says so
    number: U64
    handler: U64


class PatchRecord(NamedTuple):
    """A variable that says whether code is being patched: a structure, or a pointer to one that leads there then."""

    symbol: str
    struct: str
    used: str  # member that is not 0 while code is patched
