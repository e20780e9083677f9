"""What mappings work by: the functions of VMAs (``vm_ops``), of their files (``f_op``) and of their pages (``a_ops``).

All such tables are constants of the kernel or of a module. Each VMA, file and ``address_space`` has its own pointer to
one, and the kernel calls what stands there for every page fault, ``mmap`` and ``/proc/PID/maps`` (``vm_ops->name``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.road.pointers import Group, Source
from vmaforensics.views.road.proc_tables import read_led_to

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.pointers import PointerLog
    from vmaforensics.views.vmas.files import Files
    from vmaforensics.views.vmas.vmas import Vmas


def read_mapped(kernel: Kernel, vmas: Vmas, files: Files, log: PointerLog) -> None:
    """The tables that mappings lead to, and the functions in them."""
    rows = np.flatnonzero(vmas.ok & (vmas.ops != 0))
    _add(kernel, log, "vm_area_struct", "vm_ops", vmas.vma[rows], vmas.ops[rows])
    good = files.take(files.ok)
    ops, read = kernel.gather_member("file", "f_op", good.file)
    _add(kernel, log, "file", "f_op", good.file[read], ops[read])
    mappings = np.unique(good.mapping)
    a_ops, has_ops = kernel.gather_member("address_space", "a_ops", mappings)
    _add(kernel, log, "address_space", "a_ops", mappings[has_ops], a_ops[has_ops])
    for struct, tables in (
        ("vm_operations_struct", vmas.ops[rows]),
        ("file_operations", ops[read]),
        ("address_space_operations", a_ops[has_ops]),
    ):
        own = tables[log.in_kernel(tables) | log.modular(tables)]  # elsewhere the pointer itself is wrong
        read_led_to(kernel, log, struct, own, Source.MAPPED_TABLE)


def _add(kernel: Kernel, log: PointerLog, struct: str, path: str, homes: U64, values: U64) -> None:
    at = homes + np.uint64(kernel.offset(struct, path))
    group = Group(name=struct, struct=f"{struct}.{path}")
    log.add(Source.MAPPED, group, at, values, np.ones(len(at), np.bool_), home=homes)
