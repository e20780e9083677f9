"""Names of the bits of ``vm_flags``.

From 7.2 on the kernel's own: enumerators ``VMA_READ_BIT`` … in its type information. Before, they are macros
(include/linux/mm.h), so that the bits whose meaning has been stable since 4.19 are named here, and of the
others those that a member or type of the kernel tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

# include/linux/mm.h, by bit; what is an architecture's own, it names itself.
_STABLE = {
    0: "READ",
    1: "WRITE",
    2: "EXEC",
    3: "SHARED",
    4: "MAYREAD",
    5: "MAYWRITE",
    6: "MAYEXEC",
    7: "MAYSHARE",
    8: "GROWSDOWN",
    9: "UFFD_MISSING",
    10: "PFNMAP",
    12: "UFFD_WP",
    13: "LOCKED",
    14: "IO",
    15: "SEQ_READ",
    16: "RAND_READ",
    17: "DONTCOPY",
    18: "DONTEXPAND",
    19: "LOCKONFAULT",
    20: "ACCOUNT",
    21: "NORESERVE",
    22: "HUGETLB",
    23: "SYNC",
    24: "ARCH_1",
    25: "WIPEONFORK",
    26: "DONTDUMP",
    27: "SOFTDIRTY",
    28: "MIXEDMAP",
    29: "HUGEPAGE",
    30: "NOHUGEPAGE",
    31: "MERGEABLE",
}
_ENUMERATED = ("MAYBE_GUARD", "DROPPABLE", "UFFD_MINOR", "SEALED", "UFFD_RWP")


def bit_names(kernel: Kernel) -> dict[int, str]:
    """Name of each bit of ``vm_flags`` that this kernel gives a meaning, without ``VM_``."""
    constant = kernel.types.constant
    if constant("VMA_READ_BIT") is not None:
        known = (*_STABLE.values(), *_ENUMERATED, *kernel.arch.vm_flag_names(kernel).values())
        bits = {name: constant(f"VMA_{name}_BIT") for name in known}
        return dict(sorted((bit, name) for name, bit in bits.items() if bit is not None))
    names = _STABLE | kernel.arch.vm_flag_names(kernel)
    if kernel.has("vm_area_struct", "vm_next"):
        names[11] = "DENYWRITE"  # gone before the list went; nothing sets the bit in between
    # UFFD_MINOR came with its modes of copying (5.13), and made room for shadow stacks (6.6).
    if kernel.arch.shadow_stack_flag(kernel):
        names[38] = "UFFD_MINOR"
    elif constant("MCOPY_ATOMIC_CONTINUE") is not None or constant("MFILL_ATOMIC_CONTINUE") is not None:
        names[37] = "UFFD_MINOR"
    return names


def flag_names(kernel: Kernel, vm_flags: int) -> list[str]:
    """``VM_*`` of each bit that is set; ``bit N`` for one without a name.

    >>> flag_names(kernel, 0x75)
    ['VM_READ', 'VM_EXEC', 'VM_MAYREAD', 'VM_MAYWRITE', 'VM_MAYEXEC']
    """
    return flags_of(bit_names(kernel), vm_flags)


def flags_of(names: dict[int, str], vm_flags: int) -> list[str]:
    """As :func:`flag_names`, with the ``bit_names`` of the kernel at hand."""
    return [f"VM_{names[bit]}" if bit in names else f"bit {bit}" for bit in range(64) if vm_flags >> bit & 1]
