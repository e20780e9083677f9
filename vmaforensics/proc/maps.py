"""``/proc/PID/maps``, byte for byte (show_map_vma and show_vma_header_prefix of fs/proc/task_mmu.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import bounds_of, values_at
from vmaforensics.words.permissions import vma_permissions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.arch.interface import GateArea
    from vmaforensics.columns.types import I32
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views
    from vmaforensics.views.vmas.vmas import Vmas

_NAME_COLUMN = 72  # 25 + 6 * sizeof(void *) - 1, then one space
_MINOR_BITS = 20


def maps_lines(kernel: Kernel, views: Views, mm: int) -> Iterator[bytes]:
    """The lines of the process whose ``mm_struct`` is at ``mm``, newline included.

    VMAs come from the index the kernel itself prints from: the list up to 6.0, then the maple tree.
    """
    shown = shown_vmas(views, mm)
    vmas = shown.vmas
    assert views.files is not None
    files = views.files.rows
    for start, end, flags, pgoff, file, dev, ino, name in zip(
        vmas.start.tolist(),
        vmas.end.tolist(),
        vmas.flags.tolist(),
        vmas.pgoff.tolist(),
        vmas.file.tolist(),
        values_at(files.dev, vmas.file_row).tolist(),
        values_at(files.ino, vmas.file_row).tolist(),
        shown.names,
        strict=True,
    ):
        if file:
            yield _line(start, end, flags, (pgoff << kernel.arch.page_shift) % (1 << 64), dev, ino, name)
        else:
            yield _line(start, end, flags, 0, 0, 0, name)
    gate = gate_area(kernel, views, mm)
    if gate is not None:
        yield _line(gate.start, gate.end, gate.flags, 0, 0, 0, gate.name)


class ShownVmas(NamedTuple):
    """The VMAs that ``/proc/PID/maps`` of a process shows, in order."""

    rows: I32  # of Views.vmas
    vmas: Vmas
    names: list[bytes]


def shown_vmas(views: Views, mm: int) -> ShownVmas:
    """The decoded VMAs of one mm in the order its kernel keeps them.

    What could not be read is left out here; the report lists it.
    """
    index = views.index
    low, high = bounds_of(index.mm, np.uint64(mm))
    rows = index.vma_row[low:high]
    rows = rows[(rows >= 0) & views.vmas.ok[rows]]
    return ShownVmas(rows=rows, vmas=views.vmas.take(rows), names=[views.names[row] for row in rows.tolist()])


def gate_area(kernel: Kernel, views: Views, mm: int) -> GateArea | None:
    """The gate area, if ``/proc/PID/maps`` of this mm shows it (get_gate_vma); no index of an mm holds it."""
    row = int(views.mm_rows(np.array([mm], np.uint64))[0])
    return kernel.arch.gate_area(kernel) if row >= 0 and views.mms.has_gate_area[row] else None


def _line(start: int, end: int, vm_flags: int, offset: int, dev: int, ino: int, name: bytes) -> bytes:
    prefix = (
        f"{start:08x}-{end:08x} {vma_permissions(vm_flags)} {offset:08x} "
        f"{dev >> _MINOR_BITS:02x}:{dev & ((1 << _MINOR_BITS) - 1):02x} {ino} "
    ).encode()
    return prefix.ljust(_NAME_COLUMN) + b" " + name + b"\n" if name else prefix + b"\n"
