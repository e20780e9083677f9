"""Registers of threads as ELF core files have them: elf_gregset_t, the FXSAVE area, the XSAVE area.

What a thread that sleeps will go on with is on its kernel stack (``struct pt_regs``) and in ``thread_struct``
(arch/x86/include/asm/processor.h); the vector registers lie in ``struct fpu``, with components that were in their
initial state left as they were (XSAVES, Intel SDM volume 1, 13.6 and 13.11).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.arch.registers import CoreRegisters, FloatingState
from vmaforensics.arch.x86_64.saved_registers import WORDS

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.arch.registers import CpuState
    from vmaforensics.columns.types import U64

# What follows the words of pt_regs in struct user_regs_struct (arch/x86/include/asm/user_64.h), and the member of
# task_struct that keeps it.
_SEGMENTS = (
    "thread.fsbase",
    "thread.gsbase",
    "thread.ds",
    "thread.es",
    "thread.fsindex",
    "thread.gsindex",
)

NT_PRFPREG, NT_X86_XSTATE = 2, 0x202
_FXSAVE, _HEADER, _AVX = 512, 64, 256  # bytes; AVX state comes first behind the header, compacted or not


class _Component(NamedTuple):
    """State of more registers in the standard form of an XSAVE area."""

    at: int  # bytes behind the header
    size: int


# AVX, the masks and both parts of AVX-512, protection keys: what a core file has (gdb: gdbsupport/x86-xstate.h, the
# places of Intel's CPUs); _ALL ends behind them. Sizes besides of what XSAVES puts between them.
_COMPONENTS: Final = {
    2: _Component(0, _AVX),
    5: _Component(512, 64),
    6: _Component(576, 512),
    7: _Component(1088, 1024),
    9: _Component(2112, 8),
}
_ALL: Final = 2120
_SIZES: Final = {number: size for number, (_, size) in _COMPONENTS.items()} | {3: 64, 4: 64, 8: 128}
_MASK: Final = 0x2E7  # of XCR0
_XCR0_AT = 464  # sw_reserved.xfeatures of a core's XSAVE area (arch/x86/include/uapi/asm/sigcontext.h)
_FP, _SSE, _YMM = 1, 2, 4
# FCW 0x37f, and MXCSR 0x1f80 with its mask: what FINIT and LDMXCSR leave (fpstate_init_fxstate).
_FCW_AT, _FCW = 0, 0x37F
_MXCSR_AT, _MXCSR, _MXCSR_MASK = 24, 0x1F80, 0xFFFF
_XMM_AT, _XMM_END = 160, 416


def general_registers(kernel: KernelReader, tasks: U64, saved: U64) -> CoreRegisters:
    """The user-mode registers of threads: ``pt_regs`` at ``saved``, segments from each task_struct."""
    words, ok = kernel.words(saved, WORDS)
    parts = [words]
    for path in _SEGMENTS:
        values, held = kernel.gather_member("task_struct", f"{path}?", tasks)
        parts.append(values[:, None])
        ok = ok & held
    return CoreRegisters(words=np.concatenate(parts, axis=1), ok=ok)


def registers_of_cpu(state: CpuState) -> tuple[int, ...]:
    """The same of a CPU that was in user mode, from a dump's notes; () where they do not have all of them."""
    return (*state.words, *state.segments) if state.words and state.segments else ()


def floating_states(kernel: KernelReader, tasks: U64) -> list[FloatingState | None]:
    """The FXSAVE area of each thread, and its XSAVE area if more registers are in use; None where not known."""
    areas = _areas(kernel, tasks)
    words, ok = kernel.words(areas, (_FXSAVE + _HEADER) // 8)
    found: list[FloatingState | None] = []
    for area, row, good in zip(areas.tolist(), words, (ok & (areas != 0)).tolist(), strict=True):
        head = row.tobytes()
        places = _places(head) if good else {}
        size = max((at + _COMPONENTS[number].size for number, at in places.items()), default=0)
        behind, held = kernel.words(np.array([area + _FXSAVE + _HEADER], np.uint64), max(-(-size // 8), 1))
        known = places if bool(held[0]) else {}
        found.append(_notes(head, behind[0].tobytes(), known) if good else None)
    return found


def _areas(kernel: KernelReader, tasks: U64) -> U64:
    """Address of the XSAVE area of each task; 0 where its place is not known."""
    none = np.zeros(len(tasks), np.uint64)
    # From 6.16 on struct fpu lies behind task_struct (x86_task_fpu); before, it was in thread_struct.
    if kernel.has("task_struct", "thread.fpu.fpstate"):
        states, ok = kernel.gather_member("task_struct", "thread.fpu.fpstate", tasks)
    elif kernel.has("task_struct", "thread.fpu.state"):
        return tasks + np.uint64(kernel.offset("task_struct", "thread.fpu.state"))
    elif kernel.has("fpu", "fpstate"):
        behind = tasks + np.uint64(kernel.sizeof("task_struct"))
        states, ok = kernel.gather_member("fpu", "fpstate", behind)
    else:
        return none
    if not kernel.has("fpstate", "regs"):
        return none
    return np.where(ok & (states != 0), states + np.uint64(kernel.offset("fpstate", "regs")), none)


def _places(head: bytes) -> dict[int, int]:
    """Where the state of each known component lies that is in use, in bytes behind the header.

    Compacted (XCOMP_BV bit 63), those that it names follow each other; else each has its place. Of a component that is
    not there the state is the initial one.
    """
    features, compact = struct.unpack_from("<QQ", head, _FXSAVE)
    if not compact >> 63:
        return {number: at for number, (at, _) in _COMPONENTS.items() if features >> number & 1}
    found, at = {}, 0
    for number in range(2, 62):
        if not compact >> number & 1:
            continue
        if number not in _SIZES:  # nobody knows here how much room it takes
            break
        if features >> number & 1 and number in _COMPONENTS:
            found[number] = at
        at += _SIZES[number]
    return found


def _notes(head: bytes, behind: bytes, places: dict[int, int]) -> FloatingState | None:
    """The notes of one XSAVE area; None for what is no such area."""
    (features,) = struct.unpack_from("<Q", head, _FXSAVE)
    if features & ~((1 << 63) - 1) or any(head[_FXSAVE + 16 : _FXSAVE + _HEADER]):
        return None
    legacy = bytearray(head[:_FXSAVE])
    if not features & _FP:
        legacy[:_MXCSR_AT] = bytes(_MXCSR_AT)
        legacy[32:_XMM_AT] = bytes(_XMM_AT - 32)
        struct.pack_into("<H", legacy, _FCW_AT, _FCW)
    if not features & (_SSE | _YMM):
        struct.pack_into("<II", legacy, _MXCSR_AT, _MXCSR, _MXCSR_MASK)
    if not features & _SSE:
        legacy[_XMM_AT:_XMM_END] = bytes(_XMM_END - _XMM_AT)
    legacy[_XMM_END:] = bytes(_FXSAVE - _XMM_END)
    notes = [("CORE", NT_PRFPREG, bytes(legacy))]
    known = sum(1 << number for number in _COMPONENTS if features >> number & 1)
    missing = known & ~sum(1 << number for number in places)
    if known & ~missing:
        wide = bool(known & ~_YMM)  # the sizes that debuggers know: AVX alone, or all up to the protection keys
        area, mask = bytearray(_ALL if wide else _AVX), _MASK if wide else _FP | _SSE | _YMM
        for number, at in places.items():
            place, size = _COMPONENTS[number]
            area[place : place + size] = behind[at : at + size]
        struct.pack_into("<Q", legacy, _XCR0_AT, mask)
        in_use = _FP | _SSE | known & ~missing | _YMM
        header = struct.pack("<QQ", in_use, 0).ljust(_HEADER, b"\0")
        notes.append(("LINUX", NT_X86_XSTATE, bytes(legacy) + header + bytes(area)))
    left_out = features & ~(_FP | _SSE | known) | missing
    return FloatingState(notes=tuple(notes), left_out=left_out)
