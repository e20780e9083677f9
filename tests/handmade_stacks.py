"""Kernel stacks made by hand: functions with unwind data of any form, tasks that sleep in them, CPUs that run them.

stacks = Stacks(form=3)
stacks.function("caller", Rule("SP", 24))
task = stacks.task(Call("schedule"), Call("caller"), Entry())
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from handmade import LINUX, Machine

from vmaforensics.arch.registers import CpuState
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.stacks.stacks import StacksView, gather_stacks

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

THREAD_SIZE = 16 << 10
FUNCTION = 0x100  # bytes of code of each
PT_REGS = "r15:u64[4] bp:u64 bx:u64[11] ip:u64 cs:u64 flags:u64 sp:u64 ss:u64"
STRUCTS = LINUX | {
    "thread_struct": "sp:u64",
    "task_struct": LINUX["task_struct"] + " thread:thread_struct",
    "inactive_task_frame": "r15:u64 r14:u64 r13:u64 r12:u64 bx:u64 bp:u64 ret_addr:u64",
    "pt_regs": PT_REGS,
    "rq": "nr:u64 curr:* idle:*",
}
USER_IP, USER_SP, USER_CS, KERNEL_CS = 0x40_1234, 0x7FFF_FFFF_E000, 0x33, 0x10

# Numbers of registers and types, from arch/x86/include/asm/orc_types.h of 5.10 (form 1), 6.3 (2), 6.4 (3), 7.1 (4).
_OLD = {"-": 0, "PREV_SP": 1, "DX": 2, "DI": 3, "BP": 4, "SP": 5, "R10": 6, "R13": 7, "[BP]": 8, "[SP]": 9}
_NEW = {
    "-": 0, "AX": 1, "DX": 2, "SP": 3, "BP": 4, "DI": 5, "R10": 6, "R13": 7, "PREV_SP": 8, "[SP]": 9, "[BP]": 10,
}  # fmt: skip
_TYPES = {"undefined": 0, "end": 1, "call": 2, "regs": 3, "part": 4}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One entry of unwind data, in words."""

    sp: str = "SP"
    sp_offset: int = 8
    bp: str = "-"
    bp_offset: int = 0
    kind: str = "call"
    signal: bool = False

    def packed(self, form: int) -> bytes:
        """The six bytes of that form."""
        numbers = _NEW if form == 4 else _OLD
        sp = "-" if self.kind in ("undefined", "end") and form < 3 else self.sp
        flags = numbers[sp] | numbers[self.bp] << 4
        if form >= 3:
            flags |= _TYPES[self.kind] << 8 | self.signal << 11
        else:
            flags |= {"regs": 1, "part": 2}.get(self.kind, 0) << 8
            flags |= (self.kind == "end") << (10 if form == 1 else 11)
            flags |= (form == 2 and self.signal) << 10
        return struct.pack("<hhH", self.sp_offset, self.bp_offset, flags)


@dataclass
class Stacks:
    """A machine with code, unwind data and tasks; 256 KiB of memory suffice for some tasks."""

    form: int = 3  # of the unwind data; 0: the kernel has none
    machine: Machine = field(default_factory=lambda: Machine(STRUCTS, pages=256))
    rules: list[tuple[int, Rule]] = field(default_factory=list)  # address, what holds from there on
    tasks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine.room(4096)
        self._text = self.machine.room(64 * FUNCTION, align=4096)
        self._used = 1  # _stext is no function's
        self.machine.symbols["_stext"] = self._text
        self.machine.symbols["_etext"] = self._text + 64 * FUNCTION
        self.machine.symbols["init_task"] = 0
        for name, rule in (
            ("schedule", Rule()),
            ("ret_from_fork_asm", Rule(kind="end")),
            ("entry_SYSCALL_64", Rule(sp_offset=0, kind="regs", signal=True)),
        ):
            self.function(name, rule)

    def function(self, name: str, rule: Rule | None = None) -> int:
        """A new function of 256 bytes, all of which ``rule`` holds for; returns its address."""
        at = self._text + self._used * FUNCTION
        self._used += 1
        self.machine.symbols[name] = at
        if rule is not None:
            self.rules.append((at, rule))
        return at

    def code(self, name: str, offset: int = 0x40) -> int:
        """An address within a function."""
        return self.machine.symbols[name] + offset

    def call(self, name: str, callee: str, offset: int = 0x40) -> int:
        """Put a call of ``callee`` into a function; the address it returns to."""
        back = self.code(name, offset)
        distance = (self.machine.symbols[callee] - back) % (1 << 32)
        self.machine.write(back - 5, b"\xe8" + distance.to_bytes(4, "little"))
        return back

    def stack(self) -> int:
        """A new stack of zeros."""
        return self.machine.room(THREAD_SIZE, align=4096)

    def task(self, *words: int, bp: int = 0, stack: int | None = None, depth: int | None = None) -> int:
        """A task that sleeps: ``words[0]`` is where the switch returns to, the others lie above, up to the stack's top.

        ``depth`` is how many words below the top its registers lie, by default as many as are needed.
        """
        low = self.stack() if stack is None else stack
        top = low + THREAD_SIZE
        below = (len(words) + 6) if depth is None else depth
        at = top - 8 * below
        for place, value in enumerate((0, 0, 0, 0, 0, bp, *words)):
            self.machine.word(at + 8 * place, value)
        return self.add(low, at)

    def add(self, low: int, sp: int, *, on_cpu: int = 0) -> int:
        """A task with that stack and stack pointer."""
        pid = len(self.tasks) + 1
        members = {"pid": pid, "tgid": pid, "stack": low, "thread.sp": sp, "on_cpu": on_cpu}
        self.tasks.append(self.machine.put("task_struct", members))
        return self.tasks[-1]

    def cpu(self, *, ip: int, sp: int, bp: int = 0, cs: int = KERNEL_CS, cpu: int = 0) -> CpuState:
        """Registers of a CPU as a note of a dump has them."""
        words = [0] * 21
        words[4], words[16], words[17], words[19] = bp, ip, cs, sp
        return CpuState(cpu=cpu, ip=ip, sp=sp, table_register=0, words=tuple(words))

    def runs(self, *tasks: int) -> None:
        """These tasks are the current ones of CPUs 0, 1 … ."""
        rows = [self.machine.put("rq", {"curr": task}) for task in tasks]
        offsets = self.machine.room(8 * len(rows))
        for cpu, row in enumerate(rows):
            self.machine.word(offsets + 8 * cpu, row - rows[0])
        count = self.machine.room(8)
        self.machine.word(count, len(rows))
        self.machine.symbols.update(runqueues=rows[0], __per_cpu_offset=offsets, nr_cpu_ids=count)

    def kernel(self) -> Kernel:
        """The kernel, with its unwind data."""
        self.machine.symbols["behind"] = self._text + self._used * FUNCTION
        rules = sorted(self.rules, key=lambda pair: pair[0])
        if self.form:
            ips = self.machine.room(4 * len(rules), align=4)
            entries = self.machine.room(6 * len(rules), align=4096)
            for place, (at, rule) in enumerate(rules):
                here = ips + 4 * place
                self.machine.write(here, (at - here).to_bytes(4, "little", signed=True))
                self.machine.write(entries + 6 * place, rule.packed(self.form))
            self.machine.symbols["__start_orc_unwind_ip"] = ips
            self.machine.symbols["__stop_orc_unwind_ip"] = ips + 4 * len(rules)
            self.machine.symbols["__start_orc_unwind"] = entries
        return self.machine.kernel()

    def view(self, *cpus: CpuState) -> StacksView:
        """All stacks unwound."""
        tasks = Tasks.of(
            task=np.array(self.tasks, np.uint64), pid=range(1, len(self.tasks) + 1), ok=[True] * len(self.tasks)
        )
        return gather_stacks(self.kernel(), tasks, cpus)


def registers(ip: int, sp: int, *, cs: int = USER_CS, bp: int = 0) -> tuple[int, ...]:
    """The words of struct pt_regs."""
    return (0, 0, 0, 0, bp, *[0] * 11, ip, cs, 0, sp, 0x2B if cs == USER_CS else 0x18)


USER = registers(USER_IP, USER_SP)
