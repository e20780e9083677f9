"""Where the kernel's types come from: its BTF, a copy of that, or a symbol file."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.structures import btf
from vmaforensics.kernel.structures.layout import member
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmaforensics.columns.types import U8, U64, Bools
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.locate import Located
    from vmaforensics.kernel.space.kernel_space import KernelSpace
    from vmaforensics.kernel.structures.layout import Types
    from vmaforensics.kernel.symbols.given import SymbolFile

# Without these there is no list of processes; what else is missing costs the views that need it.
_NEEDED = (("task_struct", "tasks.next"), ("task_struct", "pid"))
_OF_THREADS = (("task_struct", "signal"), ("task_struct", "thread_node"), ("signal_struct", "thread_head"))

_BTF_LIMIT = 64 << 20
_MOST_BLOBS = 16


def find_types(
    text: KernelSpace, located: Located, given: SymbolFile | None, problems: list[str]
) -> tuple[btf.Btf | SymbolFile, str]:
    """(types, where they came from). ``text`` maps the kernel image; ``given`` is a symbol file that is this kernel's.

    What was made up for is added to ``problems``. Raises :class:`KernelNotFoundError` if there are none.
    """
    types, at, why = _own_types(text, located)
    source = f"BTF at {at:#x}"
    if (
        (types is None or lacking_of_tasks(types))
        and given is None
        and (copy := _btf_anywhere(text.memory, types)) is not None
    ):
        pa, types = copy
        source = f"copy of the BTF at physical {pa:#x}"
        problems.append(f"the kernel's BTF cannot be used ({why}); a copy of it was found elsewhere")
        why = types.problem or ""
    if types is not None and types.problem is None:
        return types, f"{source}, {len(types)} types"
    if given is not None:
        problems.append(f"the kernel's BTF cannot be used ({why}); types are those of the symbol file")
        return given, f"symbol file {given.path.name}, {len(given)} types"
    if types is not None:
        problems.append(
            f"the kernel's BTF is {why}; what needs a type that is damaged is not assessed: give a symbol file of this "
            "kernel with --symbols"
        )
        return types, f"{source}, {len(types)} types, damaged"
    raise KernelNotFoundError(
        f"no type information for kernel {located.info.release if located.info else '(release unknown)'}: "
        f"its BTF cannot be used ({why}); structure layouts come from BTF, so the image has to hold it, "
        "or a file with types has to be given with --symbols"
    )


def _own_types(text: KernelSpace, located: Located) -> tuple[btf.Btf | None, int, str]:
    """(the BTF behind its symbols, its address, what is wrong with it); None if it is none."""
    start, stop = located.symbols.get("__start_BTF"), located.symbols.get("__stop_BTF")
    if start is None or stop is None or not 0 < stop - start <= _BTF_LIMIT:
        # A table of variables that has no name for BTF; init_task alone may have been found by its contents.
        if start is None and stop is None and located.symbols.get("linux_banner") is not None:
            return None, 0, "the kernel was built without it (CONFIG_DEBUG_INFO_BTF)"
        return None, 0, "its symbols __start_BTF and __stop_BTF are not known"
    types, why = _usable(*_held(text.gather, text.memory.page_size, start, stop - start))
    return types, start, why


def _usable(blob: bytes, missing: int) -> tuple[btf.Btf | None, str]:
    """(the types of a blob of which ``missing`` pages are not held, what is wrong with them); None if it has none."""
    why = f"of it, {counted(missing, 'page')} not in the dump"
    try:
        types = btf.Btf(blob)
    except KernelNotFoundError as error:
        return None, why if missing else str(error)
    if missing:
        types.problem = f"not in the dump in part ({counted(missing, 'page')})"
    if lacking_of_tasks(types):
        types.problem = types.problem or "without struct task_struct"
    return types, types.problem or ""


def lacking_of_tasks(types: btf.Btf) -> list[str]:
    """What the list of processes needs and these types do not have."""
    return _lacking(types, _NEEDED)


def lacking_of_threads(types: Types) -> list[str]:
    """What the lists of threads need and these types do not have."""
    return _lacking(types, _OF_THREADS)


def _lacking(types: Types, wanted: tuple[tuple[str, str], ...]) -> list[str]:
    return [path for name, path in wanted if member(types, name, path) is None]


def _held(gather: Callable[[U64, int], tuple[U8, Bools]], page: int, start: int, size: int) -> tuple[bytes, int]:
    """(the bytes from ``start`` on, how many pages of them are not held); those are zero."""
    first = start & -page
    data, ok = gather(np.arange(first, start + size, page, dtype=np.uint64), page)
    return data.tobytes()[start - first : start - first + size], int((~ok).sum())


def _btf_anywhere(memory: PhysicalMemory, tried: btf.Btf | None) -> tuple[int, btf.Btf] | None:
    """(physical address, types) of a vmlinux BTF blob anywhere in memory, where it lies in one piece: of the first
    whole one, else of the first that tasks can be read with. It is another than the one that was ``tried``."""
    damaged: list[tuple[int, btf.Btf]] = []
    for pa, size in itertools.islice(_btf_heads(memory), _MOST_BLOBS):
        blob, missing = _held(memory.gather, memory.page_size, pa, size)
        if (tried is not None and blob == tried.blob) or not btf.mentions(blob, "task_struct"):
            continue
        types, _ = _usable(blob, missing)
        if types is not None and types.problem is None:
            return pa, types
        damaged += [] if types is None or lacking_of_tasks(types) else [(pa, types)]
    return damaged[0] if damaged else None


def _btf_heads(memory: PhysicalMemory) -> Iterator[tuple[int, int]]:
    """(physical address, bytes) of whatever begins as the BTF of a vmlinux does."""
    for pa, chunk in memory.scan(64 << 20):
        raw = chunk.tobytes()
        at = raw.find(btf.MAGIC)
        while at >= 0:
            head = np.frombuffer(raw[at : at + 24].ljust(24, b"\0"), "<u4")
            size = int(head[1]) + int(head[4]) + int(head[5])
            if 24 <= int(head[1]) <= 64 and 1 << 20 <= size <= _BTF_LIMIT:
                yield pa + at, size
            at = raw.find(btf.MAGIC, at + 1)
