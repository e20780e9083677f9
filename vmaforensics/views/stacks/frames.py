"""Tables of stacks and their frames."""

from __future__ import annotations

from enum import IntEnum

from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, I64, U8, U16, U64, Bools


class How(IntEnum):
    """How a frame was found."""

    REGISTERS = 0  # of the CPU
    SWITCH = 1  # what the task left when it gave up the CPU
    CALLER = 2  # by unwind data of the frame below
    INTERRUPTED = 3  # registers that an interrupt, exception or system call saved
    CALL_FOUND = (
        4  # the word of the stack behind an instruction that calls the function below, which has no unwind data
    )
    RETURN_ADDRESS = 5  # the word at the stack pointer: the code below uses no stack
    ASSUMED = 6  # by the frame pointer, though nothing says that the function below keeps one
    GUESS = 7  # a word of the stack behind some call instruction: may be left over from an earlier call

    @property
    def text(self) -> str:
        """The way in words."""
        return (
            "registers of the CPU",
            "saved at the last switch",
            "unwind data",
            "saved registers",
            "call instruction found",
            "return address at the stack pointer",
            "frame pointer assumed",
            "guess",
        )[self]


class End(IntEnum):
    """Why a stack has no further frames."""

    USER = 0
    BOTTOM = 1
    NO_STACK = 2
    NOT_SAVED = 3
    NO_DATA = 4
    LOST_DATA = 5
    UNREADABLE = 6
    NO_REGISTER = 7
    OUTSIDE = 8
    LOOP = 9
    NO_CODE = 10
    TOO_DEEP = 11
    HOOK = 12

    @property
    def text(self) -> str:
        """The reason in words."""
        return (
            "entered from user mode",
            "first function of the thread",
            "the task is dead and has given its stack back",
            "on a CPU whose registers are not in the image",
            "no unwind data for this function",
            "the unwind data for this function is not in the image",
            "a word that is needed is not in the image or not mapped",
            "needs a register that was not saved",
            "leads out of the stack",
            "leads back down the stack",
            "returns to an address that is no code",
            "deeper than is followed",
            "returns to a tracer whose record of it was not found",
        )[self]

    @property
    def whole(self) -> bool:
        """Is this how a stack ends that was unwound to its beginning?"""
        return self in (End.USER, End.BOTTOM)


@table()
class Frames(Table):
    """Frames of all stacks, sorted by stack and depth."""

    stack: I32  # row of the stacks
    depth: U16  # 0: the innermost
    ip: U64  # the instruction, or where a call returns to
    sp: U64  # stack pointer in this frame
    bp: U64  # frame pointer register, whatever the function uses it for
    registers: U64  # address of the saved registers that this frame was found by; 0: none in memory
    kind: U8  # of the stack it lies on: place in StacksView.kinds
    how: U8  # How
    sure: Bools  # every step up to here was proven by unwind data, registers or an instruction
    precise: Bools  # ip is the very instruction; False: it is behind the call
    function: I32 = column(fill=-1)  # row of the functions, -1: none known
    offset: I64  # of ip from the start of the function


@table()
class Stacks(Table):
    """A row for each of the tasks given, in their order, then one for the idle task of each CPU."""

    task: U64  # address of the task_struct
    row: I32 = column(fill=-1)  # of the tasks; -1: an idle task
    cpu: I32 = column(fill=-1)  # that it was on; -1: none
    low: U64  # lowest address of its stack; 0: it has none
    first: I64  # row of its innermost frame
    count: I32  # frames
    end: U8  # End
    where: U64  # address of the word that ended it, or of the registers of user mode; 0 for none
    value: U64  # what stands there, or would have been followed
    user_ip: U64  # where in user mode the kernel was entered from; 0 if it was not, or is not known
    user_sp: U64
