"""The code and data that the kernel maps into every process: names of its records, and where code leads at once.

``arch/x86/entry/vdso/vma.c`` and, since data pages are generic (6.15), ``lib/vdso/datastore.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.interface import VdsoSymbols

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U8, Bools

SYMBOLS = VdsoSymbols(
    images=(
        "vdso_image_64",
        "vdso_image_x32",
        "vdso_image_32",
        "vdso64_image",
        "vdsox32_image",
        "vdso32_image",
    ),
    code=("vdso_mapping",),
    data=("vvar_mapping", "vdso_vvar_mapping", "vvar_vclock_mapping"),
    pages=("__vvar_page", "tsc_pg"),
    pointers=(
        "vdso_k_time_data",
        "vdso_k_rng_data",
        "vdso_k_arch_data",
        "pvti_cpu0_va",  # hypervisors' clocks: pvclock and, below, Hyper-V's
        "tsc_page",
    ),
    structs=("vdso_data_pages",),  # since these are allocated together, with those that nothing lies in
)

_BREAKPOINT, _JUMP, _SHORT_JUMP, _GROUP, _PUSH, _REX_W = 0xCC, 0xE9, 0xEB, 0xFF, 0x68, 0x48
_ENDBR = (0xF3, 0x0F, 0x1E, 0xFA)  # begins functions that may be called through a pointer
_NOT_KNOWN = -1


def first_jumps(code: U8, at: I64) -> tuple[Bools, I64]:
    """Which pieces of ``code``, 16 bytes each, begin with a jump, and where each leads; negative if that is not said.

    ``at`` is where each lies. A breakpoint counts, and an address that is loaded or pushed to be jumped to.
    """
    begins = (code[:, : len(_ENDBR)] == np.array(_ENDBR, np.uint8)).all(axis=1)
    skip = np.where(begins, len(_ENDBR), 0).astype(np.int64)
    rows = np.arange(len(code))[:, None]
    rest = code[rows, np.minimum(skip[:, None] + np.arange(12), code.shape[1] - 1)]
    first, second = rest[:, 0], rest[:, 1]
    near = np.ascontiguousarray(rest[:, 1:5]).view("<i4")[:, 0].astype(np.int64)
    short = np.ascontiguousarray(second).view(np.int8).astype(np.int64)
    leads = np.select(
        [first == _JUMP, first == _SHORT_JUMP], [at + skip + 5 + near, at + skip + 2 + short], _NOT_KNOWN
    ).astype(np.int64)
    indirect = (first == _GROUP) & ((second & 0x38) == 0x20)  # jmp through a register or memory
    pushed = (first == _PUSH) & (rest[:, 5] == 0xC3)  # push imm32; ret
    loaded = (first == _REX_W) & ((second & 0xF8) == 0xB8) & (rest[:, 10] == _GROUP)  # movabs; jmp or call
    jumps = (first == _JUMP) | (first == _SHORT_JUMP) | (first == _BREAKPOINT) | indirect | pushed | loaded
    return jumps, leads
