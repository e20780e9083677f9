"""May a VMA of a file outside shared memory have transparent huge pages?

file_thp_enabled (mm/huge_memory.c). That took CONFIG_READ_ONLY_THP_FOR_FS, which is not known here; since that
option was removed, a regular file whose file system takes folios of the size of a PMD (mapping_pmd_folio_support,
include/linux/pagemap.h). The change came together with the new names of the functions that collapse pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.vmas.files import Files
    from vmaforensics.views.vmas.vmas import Vmas

_SINCE: Final = ("collapse_single_pmd", "collapse_scan_abort")  # mm/khugepaged.c


def takes_huge_folios(kernel: Kernel, files: Files, vmas: Vmas) -> tuple[Bools, Bools]:
    """(which of ``vmas`` are of such a file, where it is known); ``files``: the table of their ``file_row``."""
    found, known = np.zeros(len(vmas), np.bool_), np.ones(len(vmas), np.bool_)
    low, bits = (kernel.types.constant(f"AS_FOLIO_ORDER_{name}") for name in ("MAX", "BITS"))
    if low is None or bits is None or not len(files) or all(kernel.symbols.get(name) is None for name in _SINCE):
        return found, known
    at = np.flatnonzero(vmas.ok & (vmas.file_row >= 0) & (vmas.ops != 0))
    row = vmas.file_row[at]
    flags, ok = kernel.gather_member("address_space", "flags", files.mapping[row])
    order = flags >> np.uint64(low) & np.uint64((1 << bits) - 1)
    found[at] = ok & files.regular[row] & (order >= np.uint64(kernel.arch.huge_order))
    known[at] = ok | ~files.regular[row]
    return found, known
