"""How kernel addresses are translated: by the kernel's own page tables, or what stands in for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import MemoryReadError
from vmaforensics.kernel.space.kernel_space import KernelSpace
from vmaforensics.kernel.symbols.window import IMAGE_SIZE, START_KERNEL_MAP, WORD

if TYPE_CHECKING:
    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel, Symbols
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo

_PAGE_OFFSETS = {4: 0xFFFF8880_00000000, 5: 0xFF110000_00000000}  # without KASLR


def kernel_space(
    image: Image,
    text: KernelSpace,
    symbols: Symbols,
    base: int,
    info: Vmcoreinfo | None,
    mask: int,
    problems: list[str],
) -> tuple[KernelSpace, int, str, int | None]:
    """(space, levels, where it came from, physical root or None if the page tables could not be used)."""
    memory = image.memory
    hint = info.number("pgtable_l5_enabled") if info else None
    if hint is None:
        hint = _u32(text, symbols.get("__pgtable_l5_enabled"))
    if hint is None:
        hint = int(any((cpu.cr4 or 0) >> 12 & 1 for cpu in image.cpus))
    levels = 5 if hint else 4
    top = symbols.get("init_top_pgt") or (info.symbol("swapper_pg_dir") if info else None)
    probe = symbols.get("init_task") or symbols.get("_stext")
    if top is not None and probe is not None:
        root = top - START_KERNEL_MAP + base
        for depth in (levels, 9 - levels):
            space, walk = KernelSpace.from_page_tables(memory, root, levels=depth, mask=mask)
            pa, _, mapped = space.translate(np.array([probe], np.uint64))
            if mapped[0] and int(pa[0]) == probe - START_KERNEL_MAP + base:
                if len(walk.unreadable):
                    problems.append(
                        f"{len(walk.unreadable)} page-table pages of the kernel are not in the dump; addresses "
                        f"under them (first: {int(walk.unreadable['va'][0]):#x}) cannot be translated"
                    )
                if walk.truncated:
                    problems.append("the kernel's page tables have more pages than the image; walk cut short")
                return space, depth, f"page tables at physical {root:#x}", root
    problems.append(
        "the kernel's page-table root is not in the dump or does not map the kernel; only linear mappings "
        "are translated at first"
    )
    offset = _u64(text, symbols.get("page_offset_base")) or _PAGE_OFFSETS[levels]
    pieces = [(START_KERNEL_MAP, START_KERNEL_MAP + IMAGE_SIZE - 1, base % WORD)]
    for low, high in memory.ranges.tolist():
        if high < 1 << 46:
            pieces.append((offset + low, offset + high - 1, low))
    return KernelSpace.linear(memory, sorted(pieces)), levels, "linear mappings", None


def translate_through_a_process(kernel: Kernel, levels: int, mask: int) -> None:
    """Every process's page tables hold the kernel half too: take the first that maps init_task."""
    start = kernel.symbols.get("init_task")
    if start is None:
        return
    link, mm_at = kernel.offset("task_struct", "tasks.next"), kernel.offset("task_struct", "mm")
    pgd_at = kernel.offset("mm_struct", "pgd")
    task = start
    for _ in range(4096):
        try:
            task = (kernel.u64(task + link) - kernel.offset("task_struct", "tasks")) % WORD
            mm = kernel.u64(task + mm_at)
            pgd = kernel.u64(mm + pgd_at) if mm else 0
        except MemoryReadError:
            return
        if task == start:
            return
        pa, _, mapped = kernel.space.translate(np.array([pgd], np.uint64))
        if not pgd or not mapped[0]:
            continue
        root = int(pa[0])
        space, _ = KernelSpace.from_page_tables(kernel.memory, root, levels=levels, mask=mask)
        here, _, mapped = space.translate(np.array([start], np.uint64))
        if mapped[0] and int(here[0]) == start - START_KERNEL_MAP + kernel.identity.phys_base:
            kernel.space.runs = space.runs
            kernel.root = root
            kernel.identity.translation_source = f"a process's page tables at physical {root:#x}"
            return


def _u64(space: KernelSpace, address: int | None) -> int | None:
    if address is None:
        return None
    data, ok = space.gather(np.array([address], np.uint64), 8)
    return int(data.view("<u8")[0, 0]) if ok[0] else None


def _u32(space: KernelSpace, address: int | None) -> int | None:
    if address is None:
        return None
    data, ok = space.gather(np.array([address], np.uint64), 4)
    return int(data.view("<u4")[0, 0]) if ok[0] else None
