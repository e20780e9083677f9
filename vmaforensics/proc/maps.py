"""``/proc/PID/maps``, byte for byte (show_map_vma and show_vma_header_prefix of fs/proc/task_mmu.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

_NAME_COLUMN = 72  # 25 + 6 * sizeof(void *) - 1, then one space
_VSYSCALL_NONE = 2  # enum { EMULATE, XONLY, NONE }, arch/x86/entry/vsyscall/vsyscall_64.c
_MINOR_BITS = 20


def maps_lines(kernel: Kernel, views: Views, mm: int) -> Iterator[bytes]:
    """The lines of the process whose ``mm_struct`` is at ``mm``, newline included.

    Areas come from the view the kernel itself prints from: the list up to 6.0, then the maple tree.
    """
    rows, names = own_regions(views, mm)
    for line in zip(
        rows["start"].tolist(),
        rows["end"].tolist(),
        rows["flags"].tolist(),
        rows["pgoff"].tolist(),
        rows["file"].tolist(),
        _devices(views, rows),
        names,
        strict=True,
    ):
        yield _line(*line)
    gate = gate_line(kernel, views, mm)
    if gate:
        yield gate


def own_regions(views: Views, mm: int) -> tuple[NDArray[np.void], list[bytes]]:
    """The decoded VMAs of one mm in the order its kernel keeps them, and their names.

    What could not be read is left out here; the report lists it.
    """
    available = views.regions()
    view = next(one for one in (View.MAPLE, View.LIST, View.RBTREE) if one in available)
    table = available[view]
    low, high = np.searchsorted(table["mm"], [np.uint64(mm)] * 2, "left")[0], None
    high = int(np.searchsorted(table["mm"], np.uint64(mm), "right"))
    at = table["vma_row"][int(low) : high]
    at = at[views.vmas["ok"][at] & (at >= 0)]
    return views.vmas[at], [views.names[row] for row in at.tolist()]


def _devices(views: Views, rows: NDArray[np.void]) -> list[tuple[int, int]]:
    """(dev_t, inode number) of each row; zeros where there is no file."""
    assert views.files is not None
    files = views.files.rows
    at = rows["file_row"]
    if not len(files):
        return [(0, 0)] * len(rows)
    known = at >= 0
    dev = np.where(known, files["dev"][at], 0).tolist()
    ino = np.where(known, files["ino"][at], 0).tolist()
    return list(zip(dev, ino, strict=True))


def permissions(vm_flags: int) -> str:
    """``rwxp`` as show_vma_header_prefix writes it: the last letter follows VM_MAYSHARE, not VM_SHARED."""
    return (
        ("r" if vm_flags & flags.VM_READ else "-")
        + ("w" if vm_flags & flags.VM_WRITE else "-")
        + ("x" if vm_flags & flags.VM_EXEC else "-")
        + ("s" if vm_flags & flags.VM_MAYSHARE else "p")
    )


def _line(start: int, end: int, vm_flags: int, pgoff: int, file: int, device: tuple[int, int], name: bytes) -> bytes:
    dev, ino = device if file else (0, 0)
    offset = (pgoff << 12) % (1 << 64) if file else 0
    prefix = (
        f"{start:08x}-{end:08x} {permissions(vm_flags)} {offset:08x} "
        f"{dev >> _MINOR_BITS:02x}:{dev & ((1 << _MINOR_BITS) - 1):02x} {ino} "
    ).encode()
    return prefix.ljust(_NAME_COLUMN) + b" " + name + b"\n" if name else prefix + b"\n"


def gate_line(kernel: Kernel, views: Views, mm: int) -> bytes:
    """The ``[vsyscall]`` line, if this mm has one (get_gate_vma)."""
    mode, gate = kernel.symbols.get("vsyscall_mode"), kernel.symbols.get("gate_vma")
    if mode is None or gate is None:
        return b""
    data, ok = kernel.space.gather(np.array([mode], np.uint64), 4)
    row = views.mms[views.mm_rows(np.array([mm], np.uint64))[0]]
    if not ok[0] or int(data.view("<u4")[0, 0]) == _VSYSCALL_NONE or not row["has_vsyscall"]:
        return b""
    got, fine = kernel.gather(
        "vm_area_struct", np.array([gate], np.uint64), ["vm_start", "vm_end", "vm_flags", "vm_pgoff"]
    )
    if not fine[0]:
        return b""
    return _line(int(got["vm_start"][0]), int(got["vm_end"][0]), int(got["vm_flags"][0]), 0, 0, (0, 0), b"[vsyscall]")
