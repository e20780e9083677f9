"""What may be done with memory, as letters."""

from __future__ import annotations

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE

_READ, _WRITE, _EXECUTE = 1 << 0, 1 << 1, 1 << 2  # VM_READ, VM_WRITE, VM_EXEC, include/linux/mm.h
_MAYSHARE = 1 << 7  # VM_MAYSHARE


def vma_permissions(vm_flags: int) -> str:
    """``rwxp`` as show_vma_header_prefix writes it: the last letter follows VM_MAYSHARE, not VM_SHARED.

    >>> vma_permissions(0x75)
    'r-xp'
    """
    return (
        ("r" if vm_flags & _READ else "-")
        + ("w" if vm_flags & _WRITE else "-")
        + ("x" if vm_flags & _EXECUTE else "-")
        + ("s" if vm_flags & _MAYSHARE else "p")
    )


def entry_permissions(allow: int, *, present: bool = True) -> str:
    """What a page-table entry allows over all levels: ``k`` in place of ``r`` where only the kernel may read.

    ``allow`` is ``ALLOW_*`` of ``arch.page_tables``; nothing is allowed by an entry that is not ``present``.

    >>> entry_permissions(ALLOW_USER | ALLOW_EXECUTE)
    'r-x'
    """
    if not present:
        return "---"
    return (
        ("r" if allow & ALLOW_USER else "k")
        + ("w" if allow & ALLOW_WRITE else "-")
        + ("x" if allow & ALLOW_EXECUTE else "-")
    )
