"""What mappings work by: the functions of VMAs (``vm_ops``), of their files (``f_op``) and of their pages (``a_ops``).

All such tables are constants of the kernel or of a module. Each VMA, file and ``address_space`` has its own pointer to
one, and the kernel calls what stands there for every page fault, ``mmap`` and ``/proc/PID/maps`` (``vm_ops->name``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of, values_at
from vmaforensics.views.road.pointers import Group, Source
from vmaforensics.views.road.proc_tables import read_led_to

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.pointers import PointerLog
    from vmaforensics.views.vmas.files import Files
    from vmaforensics.views.vmas.vmas import Vmas


def read_mapped(kernel: Kernel, vmas: Vmas, files: Files, log: PointerLog) -> None:
    """The tables that mappings lead to, and the functions in them."""
    rows = np.flatnonzero(vmas.ok & (vmas.ops != 0))
    good = files.take(files.ok)
    ops, read = kernel.gather_member("file", "f_op", good.file)
    mappings = distinct(good.mapping)
    a_ops, has_ops = kernel.gather_member("address_space", "a_ops", mappings)
    own = _Modules(
        kernel, log, good, np.where(read, ops, np.uint64(0)), mappings, np.where(has_ops, a_ops, np.uint64(0))
    )
    _add(kernel, log, "vm_area_struct", "vm_ops", vmas.vma[rows], vmas.ops[rows], own.alien_to_file(vmas.take(rows)))
    _add(kernel, log, "file", "f_op", good.file[read], ops[read], own.alien_files[read])
    _add(kernel, log, "address_space", "a_ops", mappings[has_ops], a_ops[has_ops], own.alien_mappings[has_ops])
    for struct, tables in (
        ("vm_operations_struct", vmas.ops[rows]),
        ("file_operations", ops[read]),
        ("address_space_operations", a_ops[has_ops]),
    ):
        known = tables[log.in_kernel(tables) | log.modular(tables)]  # elsewhere the pointer itself is wrong
        read_led_to(kernel, log, struct, known, Source.MAPPED_TABLE)


class _Modules:
    """Whose the tables of regular files are: their file system's.

    What is no regular file may be of two modules that know each other by a third. So may a file of a file system on
    top of another, and one whose pages nobody maps (``empty_aops``): debugfs hands such files on.
    """

    def __init__(self, kernel: Kernel, log: PointerLog, files: Files, ops: U64, mappings: U64, a_ops: U64) -> None:
        self._modules, self._files = log.modules, files
        inode, _ = kernel.gather_member("file", "f_inode", files.file)
        of_inode, known = kernel.gather_member("inode", "i_fop", inode)
        row = rows_of(mappings, files.mapping)
        pages = values_at(a_ops, row)
        judged = files.regular & ~files.stacked & known & (ops != 0) & (pages != 0)
        self._judged = judged & (pages != np.uint64(kernel.symbols.get("empty_aops") or 0))
        self._ops, self._pages = log.modules.of(ops), log.modules.of(pages)
        inodes = log.modules.of(of_inode)
        self.alien_files: Bools = self._judged & log.modules.alien(self._ops, inodes, self._pages)
        # Read-only file systems share generic_ro_fops.
        both = self._judged & (self._ops != 0) & (inodes != 0)
        alien = both & log.modules.alien(self._pages, inodes, self._ops)
        self.alien_mappings: Bools = np.zeros(len(mappings), np.bool_)
        self.alien_mappings[row[alien & (row >= 0)]] = True

    def alien_to_file(self, vmas: Vmas) -> Bools:
        """Which VMAs have functions of a module that is not their file's."""
        row = rows_of(self._files.file, vmas.file)
        judged = values_at(self._judged, row)
        ops = self._modules.of(vmas.ops)
        alien: Bools = judged & self._modules.alien(ops, values_at(self._ops, row), values_at(self._pages, row))
        return alien


def _add(kernel: Kernel, log: PointerLog, struct: str, path: str, homes: U64, values: U64, alien: Bools) -> None:
    at = homes + np.uint64(kernel.offset(struct, path))
    group = Group(name=struct, struct=f"{struct}.{path}")
    log.add(Source.MAPPED, group, at, values, np.ones(len(at), np.bool_), home=homes, alien=alien)
