"""VMCOREINFO, the text the kernel leaves for crash tools (kernel/vmcore_info.c, kernel/crash_core.c).

Every kernel built for crash dumps carries it, whether or not a crash kernel is loaded. Containers keep
it in an ELF note; otherwise it is found in physical memory, where its page begins with ``OSRELEASE=``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.columns.types import U8
    from vmaforensics.image.memory import PhysicalMemory

START = b"OSRELEASE="
_IN_MEMORY = "physical memory at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vmcoreinfo:
    """The parsed lines. ``source`` says where they came from, for provenance; ``text`` is the whole of it."""

    values: dict[str, str]
    source: str
    text: bytes = b""

    @property
    def place(self) -> int | None:
        """Its physical address, where it was found in memory."""
        where, _, address = self.source.rpartition(" ")
        return int(address, 16) if where == _IN_MEMORY else None

    @property
    def release(self) -> str:
        """``uname -r`` of the kernel, or an empty string."""
        return self.values.get("OSRELEASE", "")

    def symbol(self, name: str) -> int | None:
        """Address of a SYMBOL() line; they are hexadecimal."""
        return self._number(f"SYMBOL({name})", 16)

    def number(self, name: str) -> int | None:
        """Value of a NUMBER() line; they are decimal and may be negative."""
        return self._number(f"NUMBER({name})", 10)

    def offset(self, name: str) -> int | None:
        """Value of an OFFSET() line in bytes."""
        return self._number(f"OFFSET({name})", 10)

    def plain(self, name: str) -> int | None:
        """Value of a bare line such as KERNELOFFSET; they are hexadecimal."""
        return self._number(name, 16)

    def _number(self, key: str, base: int) -> int | None:
        try:
            return int(self.values[key], base)
        except (KeyError, ValueError):
            return None


def parse(text: bytes, source: str) -> Vmcoreinfo:
    """Read ``KEY=VALUE`` lines up to the first NUL; anything else in ``text`` is ignored."""
    values: dict[str, str] = {}
    text = text.split(b"\0", 1)[0]
    for line in text.decode("ascii", "replace").split("\n"):
        key, equals, value = line.partition("=")
        if equals and key.isprintable() and value.isprintable():
            values.setdefault(key, value)
    return Vmcoreinfo(values=values, source=source, text=text)


def scan(memory: PhysicalMemory) -> Iterator[Vmcoreinfo]:
    """Every VMCOREINFO text that starts a page of physical memory, in address order.

    Two are normal: the text's own page, and the ELF note made from it (whose text starts 24 bytes in).
    Copies left by an earlier kernel, or by a guest of this machine, may come too: the caller checks.
    """
    for pa, chunk in memory.scan():
        for address, text in texts(pa, chunk, memory.page_size):
            yield parse(text, source_at(address))


def texts(pa: int, chunk: U8, page_size: int) -> Iterator[tuple[int, bytes]]:
    """Address and bytes, to the end of its page, of every such text in ``chunk``, the memory from ``pa`` on."""
    skip = -pa % page_size
    pages = (len(chunk) - skip) // page_size
    if pages <= 0:
        return
    rows = chunk[skip : skip + pages * page_size].reshape(pages, page_size)
    for lead in (0, 24):
        for page in np.flatnonzero(rows[:, lead] == START[0]).tolist():
            text = rows[page, lead:].tobytes()
            if text.startswith(START):
                yield pa + skip + page * page_size + lead, text


def source_at(address: int) -> str:
    """Where a text at a physical address comes from, in words."""
    return f"{_IN_MEMORY} {address:#x}"


def read_at(memory: PhysicalMemory, pa: int) -> Vmcoreinfo | None:
    """The text at ``pa``, as :func:`scan` gives it; None where there is none. Nothing is traced."""
    with memory.untraced():
        data, ok = memory.gather(np.array([pa], np.uint64), memory.page_size - pa % memory.page_size)
    text = data.tobytes()
    return parse(text, source_at(pa)) if ok[0] and text.startswith(START) else None


def symbols_of(info: Vmcoreinfo) -> dict[str, int]:
    """Name and address of every SYMBOL() line."""
    names = [key.removeprefix("SYMBOL(")[:-1] for key in info.values if key.startswith("SYMBOL(") and key[-1] == ")"]
    return {name: at for name in names if (at := info.symbol(name)) is not None and 0 < at < 1 << 64}
