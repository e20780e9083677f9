"""Unwinding kernel stacks: what the views ask of a CPU, a frame of every stack at a time.

A :class:`Cursor` says where unwinding stands on each of many stacks, :meth:`Unwinding.step` leads each to its caller.
What is a stack, how deep it may be and where it has to stay is the views' business: a step only follows
the kernel's unwind data, and says what it read on the way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, U8, U64, Bools, U64Wide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.arch.registers import CpuState

TASK_STACK = 0  # kind of the stack that a task has of its own; other kinds count from 1


class Found(IntEnum):
    """What a step came upon."""

    CALLER = 0  # the function that called
    INTERRUPTED = 1  # kernel code that an interrupt or exception came upon; its registers were saved
    ASSUMED = 2  # a caller, if the function keeps a frame pointer, which nothing says
    USER = 3  # registers of user mode: here the kernel was entered
    BOTTOM = 4  # the first function of a thread: nobody called it
    NO_DATA = 5  # nothing says how to unwind this function
    UNREADABLE = 6  # a word that is needed is not in the image, or not mapped
    NO_REGISTER = 7  # the caller hangs on a register that was not saved here
    LOST_DATA = 8  # what says how to unwind this function is not in the image


@table()
class Cursor(Table):
    """Where unwinding stands on each of many stacks."""

    ip: U64  # the next instruction, or where a call returns to
    sp: U64
    bp: U64  # frame pointer register, whatever the function uses it for
    precise: Bools  # ip is the very instruction; False: it is behind the call, which may be another function's
    whole: Bools  # all registers are known
    registers: U64Wide  # in the order in which the kernel saves them; meant only if ``whole``


@table()
class ModuleCode(Table):
    """Loaded modules, whose functions may be on stacks."""

    module: U64  # address of the struct module
    text: U64  # first address of its code
    text_end: U64  # behind its code


@table()
class Range(Table):
    """Stacks that belong to CPUs: sorted by start, disjoint."""

    start: U64  # lowest address
    end: U64  # behind the highest
    kind: U8  # place in ``Unwinding.stack_names``
    cpu: I32


class Step(NamedTuple):
    """Where a step leads; a row for each of the cursor it started from."""

    cursor: Cursor
    found: U8  # Found
    where: U64  # lowest address of what was read to find the caller; of saved registers, their address
    size: U64  # bytes read there


class Unwinding(ABC):
    """Stacks of one kernel on this CPU."""

    stack_names: tuple[str, ...]  # what the kernel calls each kind of stack; the first is a task's
    thread_size: int  # bytes of a task's stack
    source: str  # what it goes by, in words: "ORC", "frame pointers"

    @abstractmethod
    def sleeping(self, tasks: U64) -> Step:
        """Where each task that is on no CPU left it; ``where`` is where its registers were saved, or the word that
        should say so if that cannot be read (``size`` is 0 then)."""

    @abstractmethod
    def running(self, states: Sequence[CpuState]) -> Step:
        """Where each CPU was, by its registers: CALLER, USER, or NO_REGISTER if they are not in the image."""

    @abstractmethod
    def step(self, cursor: Cursor) -> Step:
        """The caller of each frame."""

    @abstractmethod
    def leave(self, cursor: Cursor) -> Step:
        """The caller of each frame, if its function has neither moved the stack pointer nor called yet."""

    @abstractmethod
    def is_thunk(self, name: str) -> bool:
        """Is the function of that name a piece of code that others jump through, and that uses no stack?"""

    @abstractmethod
    def call_targets(self, returns: U64) -> U64:
        """Address that the direct call before each return address calls; 0 where none stands there."""

    @abstractmethod
    def behind_calls(self, returns: U64) -> Bools:
        """Does a call, direct or not, stand right before each address?"""

    @abstractmethod
    def cpu_stacks(self, offsets: U64) -> Range:
        """Stacks that CPUs have of their own: for interrupts, exceptions, entry. ``offsets`` is where the per-CPU
        variables of each CPU lie."""
