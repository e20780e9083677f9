"""Several kernels in one memory: what a reboot or kexec left, a crash kernel beside the one that it saves.

Which of them is meant is told by life: a list of tasks that is whole, then the later clock. A crash kernel is not the
machine that people ask about, but what ran while its memory was read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.errors import KernelNotFoundError, MemoryReadError
from vmaforensics.image.formats.segments import PHYSICAL_LIMIT
from vmaforensics.kernel.kernel import unsigned_at
from vmaforensics.kernel.machine import read_clock
from vmaforensics.kernel.space.kernel_space import WORD
from vmaforensics.kernel.symbols import vmcoreinfo
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmaforensics.image.image import Image
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo

ANOTHER: Final = "another kernel lies in memory"  # how problems begin that name one

WORD_SIZE = 8  # bytes of a pointer
_FAR = 256  # tasks
_AGREE = 0.75  # of the links of the list of tasks
_SEARCHED = 16 << 30  # bytes of memory that is searched for kernels beside the one that is found
_AT_ONCE = 1 << 14  # pages
_LEADS = (0, 24)  # bytes before VMCOREINFO in its page: none, or the header of a note


def lives(kernel: Kernel) -> bool:
    """Whether the list of tasks leads from the idle task on, with back links that agree but for a few: while a machine
    runs, a list is torn at times. In memory that a kernel before this one left, other things lie by now."""
    start = kernel.symbols.get("init_task")
    if start is None:
        return False
    link = start + kernel.offset("task_struct", "tasks.next")
    at, agree = link, 0
    seen: set[int] = set()
    try:
        while len(seen) < _FAR and at not in seen:
            seen.add(at)
            following = kernel.u64(at)
            agree += kernel.u64((following + WORD_SIZE) % WORD) == at
            at = following
    except MemoryReadError:
        pass
    return len(seen) > 1 and agree >= len(seen) * _AGREE


def saves_another(kernel: Kernel) -> bool:
    """Whether it is a crash kernel: it was told where the headers of the crashed one's memory lie (crash_dump.h)."""
    return kernel.variable("elfcorehdr_addr", 8) not in (None, WORD - 1)


class _Life(NamedTuple):
    """What tells kernels of one memory apart; the greater is the one that is meant."""

    whole: bool  # its list of tasks
    own: bool  # it is no crash kernel
    now: int  # by its clock, in seconds


def _life(kernel: Kernel) -> _Life:
    clock = read_clock(kernel)
    return _Life(lives(kernel), not saves_another(kernel), 0 if clock is None else clock.now)


def other_notes(image: Image, kernel: Kernel) -> Iterator[Vmcoreinfo]:
    """VMCOREINFO in memory beside that of ``kernel``, for what other kernels there are.

    All of memory is searched where that is done in no time: where it lies in a file as it is, and is no larger than
    16 GiB. Otherwise what is set aside for a crash kernel is.
    """
    memory = image.memory
    size = int((memory.ranges[:, 1] - memory.ranges[:, 0]).sum())
    plain = memory.plain and image.vmcoreinfo is None
    if plain and (size <= _SEARCHED or saves_another(kernel)):
        yield from vmcoreinfo.scan(memory)
        return
    for start, end in set_aside(kernel):
        yield from _notes_in(memory, start, end)


def set_aside(kernel: Kernel) -> Iterator[tuple[int, int]]:
    """``[start, end)`` of what the kernel keeps for a crash kernel (``crashk_res``, kernel/crash_core.c)."""
    if not all(kernel.has("resource", name) for name in ("start", "end")):
        return
    for name in ("crashk_low_res", "crashk_res"):
        at = kernel.symbols.get(name)
        if at is None:
            continue
        start, last = (unsigned_at(kernel.space, at + kernel.offset("resource", part), 8) for part in ("start", "end"))
        if start and last and start < last < PHYSICAL_LIMIT and last - start < _SEARCHED:
            yield start, last + 1


def _notes_in(memory: PhysicalMemory, start: int, end: int) -> Iterator[Vmcoreinfo]:
    page = memory.page_size
    for low in range(start - start % page, end, page * _AT_ONCE):
        pages = np.arange(low, min(low + page * _AT_ONCE, end), page, dtype=np.uint64)
        with memory.untraced():
            data, ok = memory.gather(pages, 64)
        for lead in _LEADS:
            hit = ok & (data[:, lead : lead + len(vmcoreinfo.START)] == np.frombuffer(vmcoreinfo.START, np.uint8)).all(
                1
            )
            for at in pages[hit].tolist():
                if (info := vmcoreinfo.read_at(memory, at + lead)) is not None:
                    yield info


def chosen(image: Image, found: Sequence[Kernel]) -> Kernel:
    """The kernel that was asked for by number, else the one that is meant; it names the others. ``found`` has one at
    least, in the order in which they are found."""
    if image.kernel is not None:
        if len(found) < image.kernel:
            raise KernelNotFoundError(
                f"{counted(len(found), 'kernel')} in {image.path}, and not {image.kernel}; give --kernel a smaller "
                "number"
            )
        kernel = found[image.kernel - 1]
    elif len(found) == 1:
        return found[0]
    elif image.vmcoreinfo is not None and lives(found[0]):
        kernel = found[0]  # the note of a dump is that of the kernel dumped
    else:
        kernel = max(found, key=_life)
    for number, other in enumerate(found, 1):
        if other is not kernel:
            kernel.identity.problems.append(
                f"{ANOTHER}, {other.identity.release or 'of unknown release'}, {_what(other, kernel)}; "
                f"--kernel {number} takes it"
            )
    return kernel


def _what(other: Kernel, kernel: Kernel) -> str:
    """What another kernel is, beside ``kernel``."""
    if saves_another(other):
        return "the crash kernel that ran while this memory was read"
    if saves_another(kernel):
        return "whose crash this one was to save"
    return f"whose list of tasks is {'whole' if lives(other) else 'broken'}: left by a reboot"
