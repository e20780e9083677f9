"""What ``/proc/PID/maps`` calls each area: get_vma_name and show_map_vma of fs/proc/task_mmu.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.vmas.vmas import special

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.vmas.files import FileTable
    from vmaforensics.views.vmas.vmas import Vmas

_ANON_NAME_MAX = 80  # ANON_VMA_NAME_MAX_LEN


def vma_names(kernel: Kernel, vmas: Vmas, mms: Mms, files: FileTable) -> list[bytes]:
    """The name of each row of ``vmas``, in the kernel's order of precedence; empty for none.

    Names are raw bytes; only newlines are escaped, as the kernel does. A file whose path could not be
    read is ``?``.
    """
    names = [b""] * len(vmas)

    def put(rows: NDArray[np.intp], texts: list[bytes]) -> None:
        for row, text in zip(rows.tolist(), texts, strict=True):
            names[row] = text

    anon = _anon_names(kernel, vmas)
    put(np.flatnonzero(vmas["anon_name"]), [b"[anon:" + one + b"]" if one else b"" for one in anon])

    mm = np.minimum(np.searchsorted(mms["mm"], vmas["mm"]), max(len(mms) - 1, 0))
    if len(mms):
        owner = mms[mm]
        owned = vmas["ok"] & (owner["mm"] == vmas["mm"]) & owner["ok"] & (vmas["file"] == 0)
        start, end = vmas["start"], vmas["end"]
        stack = owned & (start <= owner["start_stack"]) & (end >= owner["start_stack"])
        rows = np.flatnonzero(stack)
        put(rows, [b"[stack]"] * len(rows))
        if kernel.types.struct("ptdesc") is not None:
            # vma_is_initial_heap and struct ptdesc both came with 6.6; before, touching was enough.
            heap = owned & (start < owner["brk"]) & (end > owner["start_brk"])
        else:
            heap = owned & (start <= owner["brk"]) & (end >= owner["start_brk"])
        rows = np.flatnonzero(heap)
        put(rows, [b"[heap]"] * len(rows))
    rows = np.flatnonzero(vmas["ok"] & (vmas["mm"] == 0) & (vmas["file"] == 0))
    put(rows, [b"[vdso]"] * len(rows))

    rows = np.flatnonzero(vmas["ok"] & (vmas["file"] == 0) & special(kernel, vmas["ops"]))
    put(rows, _special_names(kernel, vmas["private"][rows]))

    rows = np.flatnonzero(vmas["ok"] & (vmas["file"] != 0))
    shown = [b"?" if path is None else path.replace(b"\n", b"\\012") for path in files.paths]
    if shown:
        picked = vmas["file_row"][rows]
        put(rows, [shown[row] if row >= 0 else b"?" for row in picked.tolist()])
    if not _shares_with_rmap(kernel):
        rows = np.flatnonzero(vmas["ok"] & (vmas["file"] != 0) & (vmas["anon_name"] != 0))
        texts = _read_anon_names(kernel, vmas["anon_name"][rows])
        put(rows, [b"[anon_shmem:" + (one or b"?") + b"]" for one in texts])
    return names


def _special_names(kernel: Kernel, private: NDArray[np.uint64]) -> list[bytes]:
    """special_mapping_name: the name in the vm_special_mapping at vm_private_data."""
    known, inverse = np.unique(private, return_inverse=True)
    got, ok = kernel.gather("vm_special_mapping", known, ["name"])
    texts = kernel.strings(got["name"], 64)
    return [texts[row] or b"?" if ok[row] else b"?" for row in inverse.tolist()]


def _shares_with_rmap(kernel: Kernel) -> bool:
    """In 5.17 to 6.1 ``anon_name`` lies in a union with ``shared``, so that a file's areas have none."""
    if not kernel.has("vm_area_struct", "anon_name"):
        return True
    shared = kernel.member("vm_area_struct", "shared.rb")
    return kernel.offset("vm_area_struct", "anon_name") == shared.offset


def _anon_names(kernel: Kernel, vmas: Vmas) -> list[bytes | None]:
    """PR_SET_VMA_ANON_NAME of the rows that have one; None where the word cannot be such a name."""
    rows = vmas[vmas["anon_name"] != 0]
    if not len(rows):
        return []
    texts = _read_anon_names(kernel, rows["anon_name"])
    if _shares_with_rmap(kernel):
        texts = [
            text if anonymous else None for text, anonymous in zip(texts, (rows["file"] == 0).tolist(), strict=True)
        ]
    return texts


def _read_anon_names(kernel: Kernel, addresses: NDArray[np.uint64]) -> list[bytes | None]:
    if not kernel.has("anon_vma_name", "name"):
        return [None] * len(addresses)
    return kernel.strings(addresses + np.uint64(kernel.offset("anon_vma_name", "name")), _ANON_NAME_MAX)
