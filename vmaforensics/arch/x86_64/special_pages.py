"""Pages that user code may run in though no VMA has them, and what of ``vm_flags`` is x86's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.interface import GateArea
from vmaforensics.arch.x86_64.bits import PAGE_SHIFT

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.columns.types import U64, Bools

_VSYSCALL = 0xFFFFFFFF_FF600000  # VSYSCALL_ADDR, arch/x86/include/uapi/asm/vsyscall.h
_VSYSCALL_NONE = 2  # enum { EMULATE, XONLY, NONE }, arch/x86/entry/vsyscall/vsyscall_64.c
_VM_EXEC = 4  # all that gate_vma allows with vsyscall=xonly; in the other modes it may be read too
_IMAGE, _STEP = 64 << 20, 4 << 20  # bytes of the kernel's image that are searched, at once
_HAS_VSYSCALL = 1 << 1  # MM_CONTEXT_HAS_VSYSCALL, arch/x86/include/asm/mmu.h

_SHADOW_STACK = 37  # VM_SHADOW_STACK on kernels that have user shadow stacks (6.6+); UFFD_MINOR in 6.1
_FLAGS = {32: "PKEY_BIT0", 33: "PKEY_BIT1", 34: "PKEY_BIT2", 35: "PKEY_BIT3"}  # include/linux/mm.h
_KEY_SHIFT, _KEY_MASK = 32, 0xF  # VM_PKEY_SHIFT
_KEYS = "context.pkey_allocation_map"


def in_fixed_pages(addresses: U64) -> Bools:
    """Does each address lie in the vsyscall page?"""
    found: Bools = addresses >> np.uint64(PAGE_SHIFT) == np.uint64(_VSYSCALL >> PAGE_SHIFT)
    return found


def has_gate_area(kernel: KernelReader, mms: U64) -> Bools:
    """Would get_gate_vma (arch/x86/entry/vsyscall) give this mm the gate area? 64-bit processes have it."""
    if kernel.has("mm_struct", "context.flags"):
        flags, ok = kernel.gather_member("mm_struct", "context.flags", mms)
        has: Bools = ok & ((flags & np.uint64(_HAS_VSYSCALL)) != 0)
        return has
    # 5.10 has ia32_compat instead of context.flags, and asks for it to be zero.
    if kernel.has("mm_struct", "context.ia32_compat"):
        compat, ok = kernel.gather_member("mm_struct", "context.ia32_compat", mms)
        native: Bools = ok & (compat == 0)
        return native
    return np.ones(len(mms), np.bool_)


def gate_area(kernel: KernelReader) -> GateArea | None:
    """``gate_vma``, unless the command line said vsyscall=none.

    A kernel that lists no variables has it all the same: it is known by its contents.
    """
    gate = kernel.symbols.get("gate_vma") or _gate_by_contents(kernel)
    if gate is None:
        return None
    at = np.array([gate], np.uint64)
    start, ok_start = kernel.gather_member("vm_area_struct", "vm_start", at)
    end, ok_end = kernel.gather_member("vm_area_struct", "vm_end", at)
    flags, ok_flags = kernel.gather_member("vm_area_struct", "vm_flags", at)
    if not (ok_start[0] and ok_end[0] and ok_flags[0]) or _is_off(kernel, int(flags[0])):
        return None
    return GateArea(start=int(start[0]), end=int(end[0]), flags=int(flags[0]), name=b"[vsyscall]")


def _is_off(kernel: KernelReader, gate_flags: int) -> bool:
    """Is ``vsyscall_mode`` NONE, or not to be read? Without that symbol, by what map_vsyscall does in each mode."""
    mode = kernel.symbols.get("vsyscall_mode")
    if mode is None:
        _, mapped = kernel.words(np.array([_VSYSCALL], np.uint64), 1)
        return gate_flags != _VM_EXEC and not mapped[0]
    # An int may begin anywhere in a word: read the word that holds it.
    words, ok = kernel.words(np.array([mode & ~7], np.uint64), 1)
    return not ok[0] or int(words[0, 0]) >> 8 * (mode & 7) & 0xFFFFFFFF == _VSYSCALL_NONE


def _gate_by_contents(kernel: KernelReader) -> int | None:
    """The address of ``gate_vma``: nothing else in the kernel's image begins and ends where the vsyscall page does."""
    text = kernel.symbols.get("_stext")
    if text is None or not kernel.has("vm_area_struct", "vm_end"):
        return None
    start, end = (kernel.offset("vm_area_struct", name) for name in ("vm_start", "vm_end"))
    page = 1 << PAGE_SHIFT
    for low in range(text & -page, (text & -page) + _IMAGE, _STEP):
        pages = np.arange(low, low + _STEP, page, dtype=np.uint64)
        words, ok = kernel.words(pages, page // 8)
        rows, places = np.nonzero((words == np.uint64(_VSYSCALL)) & ok[:, None])
        found = pages[rows] + np.uint64(8) * places.astype(np.uint64) - np.uint64(start)
        ends, readable = kernel.words(found + np.uint64(end), 1)
        hits = found[readable & (ends[:, 0] == np.uint64(_VSYSCALL + page))]
        if len(hits):
            return int(hits[0])
    return None


def vm_flag_names(kernel: KernelReader) -> dict[int, str]:
    """Name of each bit of ``vm_flags`` that is x86's own."""
    return _FLAGS | ({_SHADOW_STACK: "SHADOW_STACK"} if has_shadow_stacks(kernel) else {})


def has_protection_keys(kernel: KernelReader, mms: U64) -> bool:
    """arch_pkeys_enabled: only then has an mm a key to begin with (init_new_context, arch/x86)."""
    maps, _ = kernel.gather_member("mm_struct", f"{_KEYS}?", mms)
    return bool((maps != 0).any())


def protection_key(vm_flags: int) -> int:
    """vma_pkey of arch/x86/include/asm/pkeys.h."""
    return vm_flags >> _KEY_SHIFT & _KEY_MASK


def shadow_stack_flag(kernel: KernelReader) -> int:
    """VM_SHADOW_STACK; 0 if the kernel has no user shadow stacks."""
    return 1 << _SHADOW_STACK if has_shadow_stacks(kernel) else 0


def has_shadow_stacks(kernel: KernelReader) -> bool:
    """Was the kernel built with CONFIG_X86_USER_SHADOW_STACK?"""
    return kernel.types.struct("thread_shstk") is not None
