"""Where the kernel's types come from: its BTF, a copy of that, or a symbol file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError, MemoryReadError
from vmaforensics.kernel.structures import btf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.locate import Located
    from vmaforensics.kernel.space.kernel_space import KernelSpace
    from vmaforensics.kernel.symbols.isf import Isf

log = logging.getLogger(__name__)

_BTF_LIMIT = 64 << 20


def find_types(
    text: KernelSpace, located: Located, given: Isf | None, problems: list[str]
) -> tuple[btf.Btf | Isf, str]:
    """(types, where they came from). ``text`` maps the kernel image; ``given`` is a symbol file that is this kernel's.

    What was made up for is added to ``problems``. Raises :class:`KernelNotFoundError` if there are none.
    """
    start, stop = located.symbols.get("__start_BTF"), located.symbols.get("__stop_BTF")
    why = "its symbols __start_BTF and __stop_BTF are not known"
    if start is not None and stop is not None and 0 < stop - start <= _BTF_LIMIT:
        try:
            blob = text.read(start, stop - start)
            types = btf.Btf(blob)
            if types.problem is None and types.struct("task_struct"):
                return types, f"BTF at {start:#x}, {len(types)} types"
            why = types.problem or "it has no task_struct"
        except (MemoryReadError, KernelNotFoundError) as error:
            why = str(error)
    elif located.symbols.get("_stext") is not None:
        why = "the kernel was built without it (CONFIG_DEBUG_INFO_BTF)"
    if given is not None:
        problems.append(f"the kernel's BTF cannot be used ({why}); types are those of the symbol file")
        return given, f"symbol file {given.path.name}, {len(given)} types"
    for pa, types in _btf_copies(text.memory):
        problems.append(f"the kernel's BTF cannot be used ({why}); a copy of it was found elsewhere")
        return types, f"copy of the BTF at physical {pa:#x}, {len(types)} types"
    raise KernelNotFoundError(
        f"no type information for kernel {located.info.release if located.info else '(release unknown)'}: "
        f"its BTF cannot be used ({why}); structure layouts come from BTF, so the image has to hold it, "
        "or a symbol file has to be given with --symbols"
    )


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
                    types = btf.Btf(memory.read(pa + at, size))
                    if types.problem is None and types.struct("task_struct"):
                        yield pa + at, types
                except (MemoryReadError, KernelNotFoundError) as error:
                    log.debug("no BTF at %#x: %s", pa + at, error)
            at = raw.find(btf.MAGIC, at + 1)
