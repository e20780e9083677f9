"""One reading of all memory for what tells of a kernel: VMCOREINFO, symbol tables, a banner.

Each is found as far as memory has been read, and read on when it is asked for more. So memory that has to be searched
for all of them is read once, and a search that ends early has read no further.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vmaforensics.image.formats.raw import RawMemory
from vmaforensics.kernel.symbols import kallsyms_tables, vmcoreinfo, window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.columns.types import U8
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.symbols.kallsyms_tables import Tables
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo
    from vmaforensics.kernel.symbols.window import Window

_Found = TypeVar("_Found")

BANNER = b"Linux version "
_WHOLE_BANNER = re.compile(rb"Linux version \d[\x20-\x7e]{10,200}")
_BANNER_WORD, _LONGEST_BANNER = int.from_bytes(BANNER[:8], "little"), 256
_STEP = 4 << 20  # bytes: what fits into a cache of the CPU
_ALIGNED = 8  # bytes
_MOST = 1 << 12  # of a kind: no memory holds as many kernels


class Survey:
    """What lies in one memory.

    Raw memory may be laid out anew on the way; what was found moves along with it.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._steps: Iterator[tuple[int, U8]] | None = None
        self._stretches = memory.stretches if isinstance(memory, RawMemory) else ()
        self._before = np.zeros(0, np.uint8)
        self._follows = 0  # address behind what was read
        self._infos: list[tuple[int, bytes]] = []  # place and text
        self._tables: list[tuple[int, int]] = []  # place of a token table, bytes from there to its index
        self._banner: str | None = None

    def infos(self) -> Iterator[Vmcoreinfo]:
        """Every VMCOREINFO text that starts a page, as :func:`vmcoreinfo.scan` gives it."""
        for place, text in self._each(self._infos):
            yield vmcoreinfo.parse(text, vmcoreinfo.source_at(self._address(place)))

    def tables(self, arch: Architecture) -> Iterator[tuple[Window, Tables]]:
        """Every complete set of kallsyms tables.

        There may be stale ones: what the decompressor unpacked, before it was relocated, often survives.
        """
        for place, size in self._each(self._tables):
            found = window.tables_around(self._memory, self._address(place), size, arch)
            if found is not None:
                yield found

    def banner(self) -> str | None:
        """The first text that reads like a kernel's banner, aligned as the compiler and the log align it."""
        while self._banner is None and self._read_on():
            pass
        return self._banner

    def _each(self, found: list[_Found]) -> Iterator[_Found]:
        row = 0
        while True:
            while row < len(found):
                yield found[row]
                row += 1
            if not self._read_on():
                return

    def _read_on(self) -> bool:
        """Look at what comes next; False at the end."""
        if self._steps is None:
            self._steps = self._memory.scan(_STEP)
        pa, chunk = next(self._steps, (0, None))
        if chunk is None:
            return False
        # Pieces begin anywhere in a page; tables are aligned by address, so what is looked at begins so, too.
        before = self._before if pa == self._follows else np.zeros(pa % _ALIGNED, np.uint8)
        start, end = pa - len(before), pa + len(chunk)
        data = np.concatenate([before, chunk]) if len(before) else chunk
        page = self._memory.page_size
        for at, text in vmcoreinfo.texts(start, data, page):
            if at - at % page + page > pa and len(self._infos) < _MOST:  # not looked at before
                self._infos.append((self._place(at), text))
        for table, index in kallsyms_tables.token_tables(data):
            if start + index + 2 * kallsyms_tables.GROUP > pa and len(self._tables) < _MOST:
                self._tables.append((self._place(start + table), index - table))
        if self._banner is None:
            words = data[: len(data) // _ALIGNED * _ALIGNED].view("<u8")
            for row in np.flatnonzero(words == _BANNER_WORD).tolist():
                line = _WHOLE_BANNER.match(data[row * _ALIGNED : row * _ALIGNED + _LONGEST_BANNER].tobytes())
                self._banner = self._banner or (line.group().decode() if line else None)
        low = max(end - window.OVERLAP & -_ALIGNED, start)
        self._before, self._follows = data[low - start :].copy(), end
        return True

    def _place(self, pa: int) -> int:
        """What stays of an address when raw memory is laid out anew: its place in the file."""
        for stretch in self._stretches:
            if stretch.pa <= pa < stretch.pa + stretch.size:
                return pa - stretch.pa + stretch.offset
        return pa

    def _address(self, place: int) -> int:
        for stretch in self._memory.stretches if isinstance(self._memory, RawMemory) else ():
            if stretch.offset <= place < stretch.offset + stretch.size:
                return place - stretch.offset + stretch.pa
        return place
