"""Which form of fs/proc/task_mmu.c a kernel has: told by the formats in its own read-only data.

What /proc prints of VMAs changed with 6.6 without a trace in any structure: ``THPeligible`` got 8 columns, and the heap
has to overlap ``start_brk`` to ``brk`` where touching was enough. Enterprise kernels have the file of another release
than the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_FORMAT: Final = b"THPeligible:"
_STEP: Final = 1 << 20  # bytes read at once
_MOST: Final = 64 << 20
_NEXT: Final = 16 << 20  # looked through behind the text where no symbol says where read-only data ends
_LENGTH: Final = 24  # of the format, at most


def since_6_6(kernel: Kernel) -> bool:
    """Does task_mmu.c have the form of 6.6 and later? Where its formats are not in the image, whether the kernel has
    ``struct ptdesc``, which came with the same release, stands for it."""
    found = _format(kernel)
    return kernel.types.struct("ptdesc") is not None if found is None else b"%8" in found


def _format(kernel: Kernel) -> bytes | None:
    """The format of ``THPeligible``; None where it is not in the image."""
    start = kernel.symbols.get("__start_rodata") or kernel.symbols.get("_etext")
    if start is None:
        return None
    end = kernel.symbols.get("__end_rodata") or start + _NEXT
    page = kernel.memory.page_size
    start &= -page
    before = b""
    for at in range(start, min(end, start + _MOST), _STEP):
        data, _ = kernel.space.gather(np.arange(at, min(at + _STEP, end), page, dtype=np.uint64), page)
        text = before + data.tobytes()
        place = text.find(_FORMAT)
        if 0 <= place <= len(text) - _LENGTH:
            return text[place : place + _LENGTH].partition(b"\0")[0]
        before = text[-_LENGTH:]
    return None
