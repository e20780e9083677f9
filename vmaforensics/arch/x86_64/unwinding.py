"""Stacks of an x86-64 kernel: where unwinding begins, by what it goes on, and code that has no frame of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.unwinding import Cursor, Found, Step, Unwinding
from vmaforensics.arch.x86_64 import cpu_stacks, frame_pointers, orc_step
from vmaforensics.arch.x86_64 import saved_registers as regs
from vmaforensics.arch.x86_64.orc import ENTRY_SIZE, IP_SIZE, Code, read_orc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.arch.registers import CpuState
    from vmaforensics.arch.unwinding import ModuleCode, Range
    from vmaforensics.columns.types import U64, Bools

_FRAME = "inactive_task_frame"  # what __switch_to_asm leaves on the stack (arch/x86/include/asm/switch_to.h)
_NEW_TASK = ("ret_from_fork", "ret_from_fork_asm")  # where a task begins that never ran
# Code that functions jump or return through (arch/x86/lib/retpoline.S); some releases have no ORC for it.
_THUNKS = (
    "__x86_indirect_", "__x86_return_", "x86_return_", "retbleed_", "srso_", "its_return_", "__x86_its_",
    "entry_untrain_ret", "entry_ibpb", "clear_bhb_loop", "zen_untrain_ret", "__llvm_retpoline_",
)  # fmt: skip
_CALL, _CALL_SIZE = 0xE8, 5  # call rel32
_INDIRECT = 0xFF  # call r/m64, with 2 in the middle bits of the next byte
_WORD = np.uint64(8)


class X86Unwinding(Unwinding):
    """ORC where the kernel has it, else frame pointers."""

    stack_names = cpu_stacks.NAMES

    def __init__(self, kernel: KernelReader, modules: ModuleCode) -> None:
        self._kernel = kernel
        self.thread_size = cpu_stacks.thread_size(kernel)
        self._orc, form = read_orc(kernel, [*_kernel_tables(kernel), *_module_tables(kernel, modules)])
        lost = "ORC, which is not in the image" if len(self._orc) else "frame pointers"
        self.source = f"ORC, form {form}" if form else lost
        begins = [at for name in _NEW_TASK if (at := kernel.symbols.get(name)) is not None]
        self._new_task = np.array(begins, np.uint64)

    def sleeping(self, tasks: U64) -> Step:
        sp, ok = self._kernel.gather_member("task_struct", "thread.sp", tasks)
        ip, ok_ip = self._kernel.gather_member(_FRAME, "ret_addr", sp)
        bp, ok_bp = self._kernel.gather_member(_FRAME, "bp", sp)
        size = np.uint64(self._kernel.sizeof(_FRAME))
        with np.errstate(over="ignore"):
            cursor = Cursor(
                ip=ip,
                sp=sp + size,
                bp=bp,
                precise=np.isin(ip, self._new_task),
                whole=np.zeros(len(tasks), np.bool_),
                registers=np.zeros((len(tasks), regs.WORDS), np.uint64),
            )
        found = np.where(ok & ok_ip & ok_bp, Found.CALLER, Found.UNREADABLE).astype(np.uint8)
        with np.errstate(over="ignore"):
            words = tasks + np.uint64(self._kernel.offset("task_struct", "thread.sp"))
        return Step(cursor, found, np.where(ok, sp, words), np.where(ok, size, np.uint64(0)))

    def running(self, states: Sequence[CpuState]) -> Step:
        words = np.zeros((len(states), regs.WORDS), np.uint64)
        for row, state in enumerate(states):
            if len(state.words) >= regs.WORDS:
                words[row] = [word % (1 << 64) for word in state.words[: regs.WORDS]]
        known: Bools = (words != 0).any(axis=1)
        cursor = Cursor(
            ip=words[:, regs.IP],
            sp=words[:, regs.SP],
            bp=words[:, regs.BP],
            precise=np.ones(len(states), np.bool_),
            whole=known,
            registers=words,
        )
        found = np.where(known, Found.CALLER, Found.NO_REGISTER).astype(np.uint8)
        found[known & regs.is_user(words[:, regs.CS])] = Found.USER
        none = np.zeros(len(states), np.uint64)
        return Step(cursor, found, none, none.copy())

    def step(self, cursor: Cursor) -> Step:
        if len(self._orc):
            return orc_step.step(self._kernel, self._orc, cursor)
        return frame_pointers.step(self._kernel, cursor)

    def leave(self, cursor: Cursor) -> Step:
        words, ok = self._kernel.words(cursor.sp, 1)
        with np.errstate(over="ignore"):
            caller = cursor.replace(ip=words[:, 0], sp=cursor.sp + _WORD, precise=np.zeros(len(cursor), np.bool_))
        found = np.where(ok, Found.CALLER, Found.UNREADABLE).astype(np.uint8)
        return Step(caller, found, cursor.sp, np.full(len(cursor), _WORD))

    def is_thunk(self, name: str) -> bool:
        return name.startswith(_THUNKS)

    def call_targets(self, returns: U64) -> U64:
        with np.errstate(over="ignore"):
            code, ok = self._kernel.words(returns - _WORD, 1)
            word = code[:, 0]
            distance = (word >> np.uint64(32)).astype(np.uint32).view(np.int32).astype(np.int64).view(np.uint64)
            direct = ok & ((word >> np.uint64(24) & np.uint64(0xFF)) == np.uint64(_CALL))
            return np.where(direct, returns + distance, np.uint64(0))

    def behind_calls(self, returns: U64) -> Bools:
        with np.errstate(over="ignore"):
            words, ok = self._kernel.words(returns - _WORD, 1)
        code = words.view(np.uint8).reshape(-1, 8)  # the byte right before the return address is the last
        found: Bools = code[:, 8 - _CALL_SIZE] == _CALL
        for size in (2, 3, 4, 6, 7):  # with REX prefix and displacement
            found |= (code[:, 8 - size] == _INDIRECT) & ((code[:, 9 - size] >> 3 & 7) == 2)
        found &= ok
        return found

    def cpu_stacks(self, offsets: U64) -> Range:
        return cpu_stacks.cpu_stacks(self._kernel, offsets, self.thread_size)


def _kernel_tables(kernel: KernelReader) -> list[Code]:
    """The table of the kernel image: __start_orc_unwind_ip and __start_orc_unwind, as long as both say."""
    names = ("__start_orc_unwind_ip", "__stop_orc_unwind_ip", "__start_orc_unwind", "__stop_orc_unwind")
    ips, stop, entries, stop_entries = (kernel.symbols.get(name) for name in names)
    ends = [at for name in ("_etext", "_einittext") if (at := kernel.symbols.get(name)) is not None]
    if ips is None or stop is None or entries is None:
        return []
    start = kernel.symbols.get("_stext") or ips
    length = (stop - ips) // IP_SIZE
    if stop_entries is not None and stop_entries > entries:
        length = min(length, (stop_entries - entries) // ENTRY_SIZE)
    return [Code(ips, entries, length, start, max(ends, default=(1 << 64) - 1))]


def _module_tables(kernel: KernelReader, modules: ModuleCode) -> list[Code]:
    """The tables of modules: struct mod_arch_specific (arch/x86/include/asm/module.h)."""
    if not kernel.has("module", "arch.num_orcs"):
        return []
    counts, ok = kernel.gather_member("module", "arch.num_orcs", modules.module)
    ips, ok_ips = kernel.gather_member("module", "arch.orc_unwind_ip", modules.module)
    entries, ok_entries = kernel.gather_member("module", "arch.orc_unwind", modules.module)
    rows = np.flatnonzero(ok & ok_ips & ok_entries & (counts != 0)).tolist()
    start, end = modules.text.tolist(), modules.text_end.tolist()
    return [Code(int(ips[row]), int(entries[row]), int(counts[row]), start[row], end[row]) for row in rows]
