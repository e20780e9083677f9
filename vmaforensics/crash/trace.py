"""Call traces, registers and headers as the kernel prints them beneath a complaint.

``dump_stack_print_info`` (lib/dump_stack.c), ``show_regs`` and ``show_trace_log_lvl`` (arch/x86/kernel/dumpstack.c).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.arch.registers import PrintedRegisters

# "CPU: 1 PID: 263 Comm: truth …"; since 6.12 with UID. The comm ends where the taint and the release begin.
_HEADER: Final = re.compile(
    r"CPU: (?P<cpu>\d{1,10}) (UID: \d+ )?PID: (?P<pid>\d{1,10}) Comm: (?P<comm>.*?) "
    r"(Kdump: loaded )?(Not tainted|Tainted: )"
)
# Lines that name the task they are about, which need not be the one that printed them.
_NAMED: Final = (
    re.compile(r"INFO: task (?P<comm>.{1,15}):(?P<pid>\d{1,10}) blocked "),
    re.compile(r".* \[(?P<comm>.{1,15}):(?P<pid>\d{1,10})\]$"),
    re.compile(r".*: Killed process (?P<pid>\d{1,10}) \((?P<comm>.{1,15})\)"),
)
_WHERE: Final = (
    r"(?P<name>[\w.$]+)\+0x(?P<offset>[0-9a-f]{1,16})/0x(?P<size>[0-9a-f]{1,16})( \[(?P<module>[\w-]+)[^\]]*\])?$"
)
_FRAME: Final = re.compile(r"\s*(?P<guess>\? )?" + _WHERE)
_STACK: Final = re.compile(r"\s*</?(?P<name>[A-Z#!0-9]+)>$")
_PLACE: Final = re.compile(_WHERE)
_ADDRESS: Final = re.compile(r"address:? (?P<kernel>0x)?(?P<address>[0-9a-f]{16})")
_CODE: Final = re.compile(r"Code: [0-9a-f ]*<(?P<first>[0-9a-f]{2})>(?P<rest>[0-9a-f ]*)$")
_MOST_FRAMES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFrame:
    """A line of a call trace."""

    name: str
    offset: int
    size: int
    module: str | None = None
    guess: bool = False  # a word that looked like a return address ("?"): may be stale
    interrupted: bool = False  # where an interrupt or exception came upon kernel code


@dataclass(slots=True, kw_only=True)
class Particulars:
    """What the lines beneath a complaint say; None or empty where they do not."""

    cpu: int | None = None
    pid: int | None = None
    comm: str | None = None
    place: TraceFrame | None = None  # where the kernel was when it faulted
    address: int | None = None  # that it could not access
    registers: dict[str, int] = field(default_factory=dict)  # of kernel mode
    code: bytes = b""  # from the instruction on that it was at
    frames: list[TraceFrame] = field(default_factory=list)


def read_particulars(lines: Iterable[str], printed: PrintedRegisters) -> Particulars:
    """Read the lines of one complaint, the first included; of several headers and traces the first.

    ``printed`` is how the kernel prints registers on this CPU.
    """
    found = Particulars()
    trace = _Trace(printed)
    taken = False  # do the lines that follow have the first registers of kernel mode?
    for line in lines:
        if found.cpu is None and (header := _HEADER.match(line)):
            found.cpu, found.pid, found.comm = int(header["cpu"]), int(header["pid"]), header["comm"]
            continue
        if found.address is None and (accessed := _ADDRESS.search(line)):
            found.address = int(accessed["address"], 16)
        if trace.take(line):
            continue
        if kernel := printed.kernel_place.match(line):
            taken = not found.registers
            place = _frame(_PLACE.match(line, kernel.end()))
            if trace.runs and place is not None:
                trace.frames.append(replace(place, interrupted=True))
            elif found.place is None and not trace.begun:
                found.place = place
        elif printed.user_place.match(line):
            taken = False
        if taken and not found.code and (code := _CODE.match(line)):
            found.code = bytes.fromhex(code["first"] + code["rest"])
        elif taken:
            for name, value in printed.register.findall(line):
                found.registers.setdefault(name, int(value, 16))
    found.frames = trace.frames[:_MOST_FRAMES]
    return found


def _frame(found: re.Match[str] | None, *, guess: bool = False) -> TraceFrame | None:
    """The frame that a place says: function, offset, size, module."""
    if found is None:
        return None
    return TraceFrame(
        name=found["name"],
        offset=int(found["offset"], 16),
        size=int(found["size"], 16),
        module=found["module"],
        guess=guess,
    )


class _Trace:
    """The first call trace of a complaint, through the registers of interrupts that it is interspersed with."""

    def __init__(self, printed: PrintedRegisters) -> None:
        self.frames: list[TraceFrame] = []
        self.begun = self.runs = False
        self._printed = printed

    def take(self, line: str) -> bool:
        """Is this a line of the trace itself? If so, keep its frame. A line that is not, nor of registers, ends it."""
        if line.startswith("Call Trace:"):
            self.runs = not self.begun
            self.begun = True
            return True
        if not self.runs:
            return False
        if _STACK.match(line):
            return True
        found = _FRAME.match(line)
        frame = _frame(found, guess=found is not None and found["guess"] is not None)
        if frame is None:
            self.runs = line.startswith((" ", "Code: ")) or self._of_registers(line)
            return False
        self.frames.append(frame)
        return True

    def _of_registers(self, line: str) -> bool:
        """Is it a line of registers, those of user mode apart: these are where a trace ends?"""
        if self._printed.kernel_place.match(line):
            return True
        return not self._printed.user_place.match(line) and self._printed.register.match(line) is not None


def named_task(line: str) -> tuple[str, int] | None:
    """(comm, pid) of the task that a line names, as ``INFO: task NAME:PID`` and ``[NAME:PID]`` do.

    >>> named_task("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [cat:812]")
    ('cat', 812)
    """
    found = next((found for pattern in _NAMED if (found := pattern.match(line))), None)
    return None if found is None else (found["comm"], int(found["pid"]))
