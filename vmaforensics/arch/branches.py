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
    wanted: tuple[tuple[str, ...], ...]  # functions that belong there; empty where more than a few may


class VectorTable(NamedTuple):
    """An address that a CPU is told its table of vectors lies at."""

    at: int  # of the word that says so; 0: a register
    table: int
    what: str  # for people


@table()
class Dispatched(Table):
    """Where a number leads."""

    at: U64  # address of the call or jump; 0: it could not be followed
    target: U64


class PatchRecord(NamedTuple):
    """A variable that says whether code is being patched: a structure, or a pointer to one that leads there then."""

    symbol: str
    struct: str
    used: str  # member that is not 0 while code is patched


class FlowKind(IntEnum):
    """How an instruction goes on."""

    OTHER = 0  # with the next one
    CALL = 1
    JUMP = 2
    BRANCH = 3  # a jump on a condition
    RETURN = 4
    INDIRECT = 5  # a call or jump to what a register or a word says
    BREAKPOINT = 6
    PUSH = 7  # of an address that the instruction holds
    LOAD = 8  # of a 64-bit constant into a register
    TRAP = 9  # an instruction that is none: BUG and WARN


@table()
class Flow(Table):
    """The instruction that would begin at each of a row of bytes."""

    size: U8  # bytes; 0: none is known that begins so
    kind: U8  # FlowKind
    target: U64  # where calls, jumps and branches lead; what is pushed or loaded; the word of what is indirect; else 0
