"""Where the kernel's types come from: its BTF, a copy of that, or a symbol file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError, MemoryReadError
from vmaforensics.kernel.structures import btf
from vmaforensics.kernel.structures.layout import member
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.locate import Located
    from vmaforensics.kernel.space.kernel_space import KernelSpace
    from vmaforensics.kernel.symbols.given import SymbolFile

# Without these there is no list of processes; what else is missing costs the views that need it.
NEEDED = (
    ("task_struct", "tasks.next"),
    ("task_struct", "pid"),
    ("task_struct", "comm"),
    ("task_struct", "mm"),
    ("mm_struct", "pgd"),
    ("vm_area_struct", "vm_start"),
)

log = logging.getLogger(__name__)

_BTF_LIMIT = 64 << 20


def find_types(
    text: KernelSpace, located: Located, given: SymbolFile | None, problems: list[str]
) -> tuple[btf.Btf | SymbolFile, str]:
    """(types, where they came from). ``text`` maps the kernel image; ``given`` is a symbol file that is this kernel's.

    What was made up for is added to ``problems``. Raises :class:`KernelNotFoundError` if there are none.
    """
    types, at, why = _own_types(text, located)
    if types is not None and types.problem is None:
        return types, f"BTF at {at:#x}, {len(types)} types"
    if given is not None:
        problems.append(f"the kernel's BTF cannot be used ({why}); types are those of the symbol file")
        return given, f"symbol file {given.path.name}, {len(given)} types"
    if types is not None:
        problems.append(
            f"the kernel's BTF is {why}; what needs a type that is damaged is not assessed: give a symbol file of this "
            "kernel with --symbols"
        )
        return types, f"BTF at {at:#x}, {len(types)} types, damaged"
    for pa, copy in _btf_copies(text.memory):
        problems.append(f"the kernel's BTF cannot be used ({why}); a copy of it was found elsewhere")
        return copy, f"copy of the BTF at physical {pa:#x}, {len(copy)} types"
    raise KernelNotFoundError(
        f"no type information for kernel {located.info.release if located.info else '(release unknown)'}: "
        f"its BTF cannot be used ({why}); structure layouts come from BTF, so the image has to hold it, "
        "or a file with types has to be given with --symbols"
    )


def _own_types(text: KernelSpace, located: Located) -> tuple[btf.Btf | None, int, str]:
    """(the BTF behind its symbols, its address, what is wrong with it); None if tasks could not be read with it."""
    start, stop = located.symbols.get("__start_BTF"), located.symbols.get("__stop_BTF")
    if start is None or stop is None or not 0 < stop - start <= _BTF_LIMIT:
        # A table of variables that has no name for BTF; init_task alone may have been found by its contents.
        if start is None and stop is None and located.symbols.get("linux_banner") is not None:
            return None, 0, "the kernel was built without it (CONFIG_DEBUG_INFO_BTF)"
        return None, 0, "its symbols __start_BTF and __stop_BTF are not known"
    blob, missing = _held(text, start, stop - start)
    why = f"of it, {counted(missing, 'page')} not in the dump"
    try:
        types = btf.Btf(blob)
    except KernelNotFoundError as error:
        return None, start, why if missing else str(error)
    if missing:
        types.problem = f"not in the dump in part ({counted(missing, 'page')})"
    lacking = [name for name, path in NEEDED if member(types, name, path) is None]
    if lacking:
        return None, start, why if missing else f"struct {lacking[0]} is not in it or damaged"
    return types, start, types.problem or ""


def _held(text: KernelSpace, start: int, size: int) -> tuple[bytes, int]:
    """(the bytes from ``start`` on, how many pages of them are not held); those are zero."""
    page = text.memory.page_size
    first = start & -page
    pages = np.arange(first, start + size, page, dtype=np.uint64)
    data, ok = text.gather(pages, page)
    return data.tobytes()[start - first : start - first + size], int((~ok).sum())


def _btf_copies(memory: PhysicalMemory) -> Iterator[tuple[int, btf.Btf]]:
    """Whole vmlinux BTF blobs anywhere in physical memory; they lie in one piece in the kernel image."""
    for pa, chunk in memory.scan(64 << 20):
        raw = chunk.tobytes()
        at = raw.find(btf.MAGIC)
        while at >= 0:
            head = np.frombuffer(raw[at : at + 24].ljust(24, b"\0"), "<u4")
            size = int(head[1]) + int(head[4]) + int(head[5])
            if 24 <= int(head[1]) <= 64 and 1 << 20 <= size <= _BTF_LIMIT:
                try:
                    types = btf.Btf(memory.read(pa + at, size), whole=True)
                    if types.struct("task_struct"):
                        yield pa + at, types
                except (MemoryReadError, KernelNotFoundError) as error:
                    log.debug("no BTF at %#x: %s", pa + at, error)
            at = raw.find(btf.MAGIC, at + 1)
