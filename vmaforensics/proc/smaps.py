"""``/proc/PID/smaps``: show_smap, __show_smap and show_smap_vma_flags of fs/proc/task_mmu.c.

Which lines there are follows from the members of the kernel's own ``struct mem_size_stats``, and the two
letters of each flag from its own table of them. Where a dump does not decide:

* ``THPeligible`` is padded to 8 columns where the kernel's own format says so (``views/vmas/task_mmu.py``).
* Without ``struct mem_size_stats`` in the types, the lines are those that every release since 5.4 has.
* Without the table of letters in the image, a flag's letters are those of 6.12, with ``dw`` for bit 11.

Compared with what the guests' own smaps said about a second before they were paused (every process but the one
that was reading), every line of every VMA is equal, byte for byte, on 5.10, 6.1, 6.12, 6.16, 7.2 and 7.3: 6,480
to 6,542 VMAs each. On 6.18 one VMA of 6,541 differs, by one page of ``Referenced``. Those guests were idle; a
machine at work changes such fields by the second, and they tell of the moment of the image. What those guests
do not have is not compared: a swapped page of two processes (``SwapPss``), tables of huge pages that processes
share, huge pages of files on disks, migration and device-private entries (which count nothing here).

Where page tables or struct pages of a VMA are not in the image, the lines that add them up are left out; so
are ``THPeligible`` and the sizes of huge pages where what decides them is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import bounds_of
from vmaforensics.proc.maps import gate_area, maps_lines
from vmaforensics.views.pages.smaps import PSS_SHIFT, read_smaps
from vmaforensics.views.pages.thp import thp_eligible
from vmaforensics.views.vmas.flag_names import bit_names
from vmaforensics.views.vmas.task_mmu import since_6_6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

# Member of mem_size_stats and label of the line it is printed in, in order.
_LABELS = {
    "resident": "Rss",
    "pss": "Pss",
    "pss_dirty": "Pss_Dirty",
    "shared_clean": "Shared_Clean",
    "shared_dirty": "Shared_Dirty",
    "private_clean": "Private_Clean",
    "private_dirty": "Private_Dirty",
    "referenced": "Referenced",
    "anonymous": "Anonymous",
    "ksm": "KSM",
    "lazyfree": "LazyFree",
    "anonymous_thp": "AnonHugePages",
    "shmem_thp": "ShmemPmdMapped",
    "file_thp": "FilePmdMapped",
    "shared_hugetlb": "Shared_Hugetlb",
    "private_hugetlb": "Private_Hugetlb",
    "swap": "Swap",
    "swap_pss": "SwapPss",
    "pss_locked": "Locked",
}
_NEW = ("pss_dirty", "ksm")  # 6.0 and 6.7
_LETTERS = (
    "rd wr ex sh mr mw me ms gd um pf dw uw lo io sr rr dc de lf ac nr ht sf ar wf dd sd mm hg nh mg "
    "- - - - ?? ss ui ?? dp ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? ?? sl"
)
_KB = 10


class _Figures(NamedTuple):
    """What is printed of a VMA beside its line of maps."""

    size: int  # kB
    page: int  # kB of a page, 0 where that is not known
    stats: tuple[int, ...] | None  # kB by line, None where not everything could be read
    eligible: int  # for huge pages: 0 or 1, -1 where that is not known
    flags: int


class SmapsPrinter:
    """Prints smaps of the processes of one image."""

    def __init__(self, kernel: Kernel, views: Views) -> None:
        assert views.files is not None
        self._kernel, self._views = kernel, views
        files = views.files.rows
        self.rows = read_smaps(kernel, views.index, views.mms, views.vmas, files, views.page_tables)
        thp = thp_eligible(kernel, files, views.vmas.take(self.rows.vma_row))
        self._eligible = np.where(thp.known, thp.eligible, -1).astype(np.int8)
        self._letters = letters(kernel)
        self._shown: dict[int, str] = {}  # VmFlags line by flags
        self._names = tuple(name for name in _LABELS if _has_line(kernel, name))
        self._stats = "".join(_format(_LABELS[name]) for name in self._names)
        self._keys = kernel.arch.has_protection_keys(kernel, views.mms.mm)

    def lines(self, mm: int) -> Iterator[bytes]:
        """The text of the process whose ``mm_struct`` is at ``mm``, a VMA at a time."""
        figures = self._figures(mm)
        for head in maps_lines(self._kernel, self._views, mm):
            yield head + self._body(next(figures, None) or self._gate(mm))

    def unknown(self, mm: int) -> int:
        """VMAs of which not everything could be read."""
        low, high = bounds_of(self.rows.mm, np.uint64(mm))
        return int((~self.rows.known[low:high]).sum())

    def _figures(self, mm: int) -> Iterator[_Figures]:
        """What is printed of the VMAs that maps_lines prints, except for the gate area."""
        low, high = bounds_of(self.rows.mm, np.uint64(mm))
        vma_row = self.rows.vma_row[low:high]
        at = low + np.flatnonzero((vma_row >= 0) & self._views.vmas.ok[vma_row])
        rows = self.rows.take(at)
        vmas = self._views.vmas.take(rows.vma_row)
        columns = rows.columns()
        shift = {name: _KB + (PSS_SHIFT if "pss" in name else 0) for name in self._names}
        stats = zip(*((columns[name] >> shift[name]).tolist() for name in self._names), strict=True)
        for size, page, stat, known, eligible, flags in zip(
            ((vmas.end - vmas.start) >> np.uint64(_KB)).tolist(),
            (rows.page_size >> np.uint64(_KB)).tolist(),
            stats,
            rows.known.tolist(),
            self._eligible[at].tolist(),
            vmas.flags.tolist(),
            strict=True,
        ):
            yield _Figures(size=size, page=page, stats=stat if known else None, eligible=eligible, flags=flags)

    def _gate(self, mm: int) -> _Figures:
        """The gate area, which has no page tables of its own to add up (get_gate_area)."""
        gate = gate_area(self._kernel, self._views, mm)
        size, flags = (gate.end - gate.start >> _KB, gate.flags) if gate is not None else (0, 0)
        return _Figures(
            size=size, page=self._kernel.arch.page_size >> _KB, stats=(0,) * len(self._names), eligible=0, flags=flags
        )

    def _body(self, figures: _Figures) -> bytes:
        page, flags = figures.page, figures.flags
        text = f"Size:           {figures.size:8d} kB\n"
        text += f"KernelPageSize: {page:8d} kB\nMMUPageSize:    {page:8d} kB\n" if page else ""
        text += self._stats % figures.stats if figures.stats is not None else ""
        if figures.eligible >= 0:
            padded = self._kernel.shared(since_6_6)
            text += f"THPeligible:    {figures.eligible:8d}\n" if padded else f"THPeligible:    {figures.eligible:d}\n"
        if self._keys:
            text += f"ProtectionKey:  {self._kernel.arch.protection_key(flags):8d}\n"
        shown = self._shown.get(flags)
        if shown is None:
            each = (letters for bit, letters in enumerate(self._letters) if flags >> bit & 1 and letters)
            shown = self._shown[flags] = "VmFlags: " + "".join(f"{letters} " for letters in each) + "\n"
        return (text + shown).encode()


def _has_line(kernel: Kernel, name: str) -> bool:
    if kernel.types.struct("mem_size_stats") is None:
        return name not in _NEW
    return kernel.has("mem_size_stats", name)


def _format(label: str) -> str:
    """A line of a size; the one label that is too long for its column takes the space from the number's."""
    return f"{label}: %7d kB\n" if len(label) > 14 else f"{label + ':':<16}%8d kB\n"


def letters(kernel: Kernel) -> list[str]:
    """The two letters of each bit of vm_flags, empty for what is not printed.

    They are read from the kernel's own table, ``static const char mnemonics[BITS_PER_LONG][2]``, with three
    bytes each in later releases.
    """
    for name in ("mnemonics", *(f"mnemonics.{number}" for number in range(16))):
        for at in kernel.symbols.find(name):
            data, ok = kernel.space.gather(np.array([at], np.uint64), 3 * 64)
            raw = data.tobytes()
            for size, start in ((2, b"rdwrexsh"), (3, b"rd\0wr\0ex\0sh\0")):
                if ok[0] and raw.startswith(start):
                    return _decoded(raw, size)
    plain = ["" if cell == "-" else cell for cell in _LETTERS.split()]
    if kernel.types.struct("folio") is not None:  # 5.16; VM_DENYWRITE left with 5.15, VM_MAYBE_GUARD took its bit
        plain[11] = "gu"
    if not kernel.shared(since_6_6):
        plain[19] = plain[63] = "??"
    if not kernel.arch.shadow_stack_flag(kernel):
        plain[37] = "ui" if 37 in bit_names(kernel) else "??"
    for name, bit, two in (("VMA_UFFD_MINOR_BIT", 38, "ui"), ("VMA_SEALED_BIT", 63, "sl")):
        number = kernel.types.constant(name)
        if number is not None and number < 64:
            plain[bit], plain[number] = "??", two
    return plain


def _decoded(raw: bytes, size: int) -> list[str]:
    cells = (raw[at : at + 2] for at in range(0, 64 * size, size))
    return [cell.decode("ascii") if cell.isalpha() or cell == b"??" else "" for cell in cells]
