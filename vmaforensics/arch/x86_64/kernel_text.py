"""Which bytes of the kernel's code differ from the file it was booted from because the kernel itself changed them.

Every mechanism has a table of the places it changes, and few forms that may stand there. Tables that are given back
after boot (``.return_sites``, ``.altinstructions``, …) are those of the file. arch/x86/kernel/alternative.c,
static_call.c, jump_label.c, ftrace.c; arch/x86/include/asm/runtime-const.h. No place is left out of the comparison:
one that holds none of its forms is not explained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.arch.branches import BranchKind
from vmaforensics.arch.x86_64.alternatives import alternatives
from vmaforensics.arch.x86_64.code_patches import SIZE, TRACER_CALLS, branches
from vmaforensics.arch.x86_64.filler import is_filler
from vmaforensics.arch.x86_64.paravirt import paravirt_calls
from vmaforensics.arch.x86_64.text_windows import RETURN, Explained, relative_places, windows
from vmaforensics.columns.lookup import is_in

if TYPE_CHECKING:
    from vmaforensics.arch.branches import Branches
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.arch.reference_text import PatchedPlaces, ReferenceText
    from vmaforensics.columns.types import I64, Bools

# In the place of a static call: return, `xor %eax,%eax`, `ud1` of WARN, `movb $0,(%rdi)` of an unlock
# (arch/x86/kernel/static_call.c).
_CALL_FORMS: Final = (RETURN, *(bytes.fromhex(text) for text in ("2e2e2e31c0", "67480fb93a", "3e3ec60700")))
_ENDBR: Final = bytes.fromhex("f30f1efa")
_SEALED: Final = (bytes.fromhex("660f1f00"), bytes.fromhex("0f1f40d6"))  # gen_endbr_poison: up to 6.14, since
_LOCK, _NO_LOCK = 0xF0, 0x3E
_CALL, _JUMP, _BREAKPOINT = 0xE8, 0xE9, 0xCC
_RUNTIME: Final = {"runtime_ptr_": 8, "runtime_shift_": 1, "runtime_mask_": 4}  # bytes of the constant
_REGISTERS: Final = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
_LFENCE: Final = bytes.fromhex("0faee8")


def explained(kernel: KernelReader, text: ReferenceText, places: PatchedPlaces) -> Bools:
    """Which bytes of ``text`` are as the file has them, or as the kernel's own patches have left them."""
    found = Explained(text)
    _relocations(found)
    _entries(kernel, found, places)
    _returns(kernel, found)
    _retpolines(kernel, found)
    _locks(found)
    _sealed(found)
    _static_calls(found, places)
    _jump_labels(found, places)
    _probes(found, places)
    _runtime_constants(kernel, found)
    paravirt_calls(kernel, found)
    alternatives(kernel, found)
    return found.mask


def _code(found: Explained, at: I64) -> Branches:
    """The instruction in memory at each place."""
    return branches(windows(found.text.found, at, SIZE), found.addresses(at))


def _relocations(found: Explained) -> None:
    """Words of 32 bits that were moved as the kernel was; those of per-CPU variables the other way round."""
    text = found.text
    moved = np.uint32(text.moved % (1 << 32))
    odd = np.flatnonzero(~found.mask)
    for back in range(4):
        at = found.within(odd - back, 4)
        by = found.words(text.found, at) - found.words(text.linked, at)
        found.mark(at[(by == moved) | (by == (~moved + np.uint32(1)))], 4)


def _entries(kernel: KernelReader, found: Explained, places: PatchedPlaces) -> None:
    """Entries of functions, where the file calls ``__fentry__`` or has nothing; and the calls of ftrace itself."""
    at = found.within(found.offsets(places.entries), SIZE)
    linked = branches(windows(found.text.linked, at, SIZE), found.addresses(at))
    fentry = kernel.symbols.get("__fentry__") or 0
    traced = (linked.kind == BranchKind.NOP) | ((linked.kind == BranchKind.CALL) & (linked.target == np.uint64(fentry)))
    found.mark(at[traced & (_code(found, at).kind != BranchKind.OTHER)], SIZE)  # TEXT-PATCHED asks what is called
    names = [kernel.symbols.get(name) for name in TRACER_CALLS]
    at = found.within(found.offsets(np.array([known for known in names if known is not None], np.uint64)), SIZE)
    code = _code(found, at)
    leads = (code.kind == BranchKind.CALL) | (code.kind == BranchKind.JUMP)
    own = found.inside(code.target) | is_in(code.target, places.tracers)
    found.mark(at[(code.kind == BranchKind.NOP) | (leads & own)], SIZE)


def _returns(kernel: KernelReader, found: Explained) -> None:
    """``jmp __x86_return_thunk`` becomes a return, or a jump to the thunk that the CPU's bugs ask for."""
    at = found.within(relative_places(found.text, ".return_sites"), SIZE)
    at = at[found.text.linked[at] == _JUMP]
    now = windows(found.text.found, at, SIZE)
    plain = (now == np.frombuffer(RETURN, np.uint8)).all(axis=1)
    thunk = kernel.symbols.get("x86_return_thunk")
    words, ok = kernel.words(np.array([thunk or 0], np.uint64), 1)
    jumps = (_code(found, at).target == words[0, 0]) & (now[:, 0] == _JUMP) & bool(ok[0]) & (thunk is not None)
    found.mark(at[plain | jumps], SIZE)


def _retpolines(kernel: KernelReader, found: Explained) -> None:
    """A call or jump to the thunk of a register becomes one through the register, behind ``lfence`` on some CPUs."""
    thunks = {}
    for number, name in enumerate(_REGISTERS):
        for symbol in (f"__x86_indirect_thunk_{name}", f"__pi___x86_indirect_thunk_{name}"):
            if (address := kernel.symbols.get(symbol)) is not None:
                thunks[address] = number
    sites = found.within(relative_places(found.text, ".retpoline_sites"), SIZE + 1)
    prefix = found.text.linked[sites] == 0x2E  # cs, which fills the place of a longer instruction
    for skipped in (0, 1):
        at = sites[prefix == bool(skipped)]
        at = found.changed(at, SIZE + skipped)
        linked = branches(windows(found.text.linked, at + skipped, SIZE), found.addresses(at + skipped))
        now = windows(found.text.found, at, SIZE + skipped)
        fine = np.zeros(len(at), np.bool_)
        for row, (target, kind) in enumerate(zip(linked.target.tolist(), linked.kind.tolist(), strict=True)):
            if target in thunks and kind in (BranchKind.CALL, BranchKind.JUMP):
                fine[row] = _through_register(now[row].tobytes(), thunks[target], jump=kind == BranchKind.JUMP)
        found.mark(at[fine], SIZE + skipped)


def _through_register(code: bytes, register: int, *, jump: bool) -> bool:
    """Is this ``call *%reg`` or ``jmp *%reg``, with filler around it?"""
    high = b"\x41" if register > 7 else b""
    core = high + bytes([0xFF, (0xE0 if jump else 0xD0) | (register & 7)])
    for before in (_LFENCE, b""):
        if code.startswith(before + core):
            rest = code[len(before + core) :]
            return rest[:1] == b"\xcc" or is_filler(rest)
    return False


def _locks(found: Explained) -> None:
    """``lock`` prefixes are taken off while there is one CPU."""
    at = found.within(relative_places(found.text, ".smp_locks"), 1)
    found.mark(at[(found.text.linked[at] == _LOCK) & (found.text.found[at] == _NO_LOCK)], 1)


def _sealed(found: Explained) -> None:
    """``endbr64`` of functions whose address is not taken is made to be none."""
    at = found.within(relative_places(found.text, ".ibt_endbr_seal"), len(_ENDBR))
    was = (windows(found.text.linked, at, len(_ENDBR)) == np.frombuffer(_ENDBR, np.uint8)).all(axis=1)
    found.mark(at[was & found.holds(at, _SEALED)], len(_ENDBR))


def _static_calls(found: Explained, places: PatchedPlaces) -> None:
    """Static calls, of which TEXT-PATCHED asks where they lead; and the trampolines that others call them by."""
    at = found.within(found.offsets(places.calls), SIZE)
    at = at[np.isin(found.text.linked[at], (_CALL, _JUMP))]
    found.mark(at[(_code(found, at).kind != BranchKind.OTHER) | found.holds(at, _CALL_FORMS)], SIZE)
    at = found.offsets(places.trampolines)
    held = found.fits(at, SIZE)
    at, targets = at[held], places.trampoline_targets[held]
    code = _code(found, at)
    leads = (code.kind == BranchKind.JUMP) & (code.target == targets)
    found.mark(at[leads | found.holds(at, (RETURN,))], SIZE)


def _jump_labels(found: Explained, places: PatchedPlaces) -> None:
    """A jump to the label, or nothing."""
    at = found.offsets(places.labels)
    held = found.fits(at, SIZE)
    at, targets = at[held], places.label_targets[held]
    code = _code(found, at)
    first, second = found.text.linked[at], found.text.linked[at + 1]
    short = (first == 0xEB) | ((first == 0x66) & (second == 0x90))
    fine = (code.kind == BranchKind.NOP) | ((code.kind == BranchKind.JUMP) & (code.target == targets))
    fine |= code.kind == BranchKind.BREAKPOINT  # TEXT-PATCHED asks whose
    found.mark(at[fine & short], 2)
    found.mark(at[fine & ~short], SIZE)


def _probes(found: Explained, places: PatchedPlaces) -> None:
    """Breakpoints of kprobes, and jumps to the copies that were made for them; KPROBE tells of them."""
    at = found.within(found.offsets(places.probes), SIZE)
    first = found.text.found[at]
    found.mark(at[first == _BREAKPOINT], 1)
    found.mark(at[first == _JUMP], SIZE)


def _runtime_constants(kernel: KernelReader, found: Explained) -> None:
    """Constants that are put into code once they are known (6.11): what the variable of that name holds."""
    for section in found.text.sections:
        kind = next((prefix for prefix in _RUNTIME if section.startswith(prefix)), None)
        if kind is None:
            continue
        size = _RUNTIME[kind]
        at = found.within(relative_places(found.text, section), size)
        if not len(at):
            continue
        now = windows(found.text.found, at, size)
        wanted = now[0]
        variable = kernel.symbols.get(section.removeprefix(kind))
        words, ok = kernel.words(np.array([variable or 0], np.uint64), 1)
        if variable is not None and ok[0]:
            wanted = words[0].view(np.uint8)[:size]
        found.mark(at[(now == wanted).all(axis=1)], size)
