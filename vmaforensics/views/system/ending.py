"""The variables that say whether and how a kernel ended (kernel/panic.c, arch/x86/kernel/dumpstack.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.kernel.kernel import unsigned_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel

_PANIC_TEXT: Final = 1024  # bytes of buf in panic(), vpanic()
_MOST_BUFFERS: Final = 32  # static variables called buf that are numbered (buf.0, buf.1 …)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How it ended. None: the variable is not there or not in the image."""

    panic_cpu: int | None  # that called panic() or, of a crash dump, crash_kexec(); -1: none has
    oops_in_progress: int | None  # while an oops or a panic is being printed
    die_counter: int | None  # oopses since boot: the number in [#1]
    warn_count: int | None
    tainted: int | None  # TAINT_* bits
    crash_kernel: bool | None  # was one loaded to make a dump?
    buffers: tuple[bytes, ...]  # texts of the static buffers called buf, of which panic()'s is one


def read_ending(kernel: Kernel) -> Ending:
    """What those variables hold."""
    image = kernel.variable("kexec_crash_image", 8)
    return Ending(
        panic_cpu=panic_cpu(kernel),
        oops_in_progress=_signed(kernel, "oops_in_progress"),
        die_counter=_signed(kernel, "die_counter"),
        warn_count=_signed(kernel, "warn_count"),
        tainted=kernel.variable("tainted_mask", 8),
        crash_kernel=None if image is None else image != 0,
        buffers=tuple(_buffers(kernel)),
    )


def panic_cpu(kernel: Kernel) -> int | None:
    """The CPU that called panic() or, of a crash dump, crash_kexec(); -1: none has; None: not known."""
    return _signed(kernel, "panic_cpu")


def _signed(kernel: Kernel, name: str) -> int | None:
    """An int or atomic_t."""
    at = kernel.symbols.get(name)
    value = None if at is None else unsigned_at(kernel.space, at, 4)
    return None if value is None else value - (value >> 31 << 32)


def _buffers(kernel: Kernel) -> Iterator[bytes]:
    """Every ``buf.N`` that holds a text: which of them is that of panic() only its text can tell."""
    places = [at for number in range(_MOST_BUFFERS) for at in kernel.symbols.find(f"buf.{number}")]
    for text in kernel.strings(np.array(places, np.uint64), _PANIC_TEXT):
        if text:
            yield text
