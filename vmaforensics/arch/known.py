"""The architectures there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.arch.x86_64.architecture import X86_64

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture

ARCHITECTURES: tuple[Architecture, ...] = (X86_64(),)
DEFAULT: Architecture = ARCHITECTURES[0]  # of an image whose container does not name one


# What ``uname -m`` says on machines that Linux dumps memory of and that are not read here.
OTHER_MACHINES = frozenset(
    (
        *("aarch64", "aarch64_be", "arm64", "armv7l", "i386", "i486", "i586", "i686", "ia64", "loongarch64", "mips"),
        *("mips64", "parisc64", "ppc", "ppc64", "ppc64le", "riscv32", "riscv64", "s390", "s390x", "sparc64"),
    )
)


def refusal(machine: str) -> str:
    """The end of the sentence that refuses a dump of another ``machine``: what it is of, and what reads it."""
    read = ", ".join(arch.name for arch in ARCHITECTURES)
    return f"is the dump of another machine ({machine}), only {read} is read; open it with drgn or a crash built for it"


def by_elf_machine(machine: str) -> Architecture | None:
    """The architecture of ELF files of ``machine`` ("EM_X86_64"), None for one that is not known."""
    return next((arch for arch in ARCHITECTURES if arch.elf_machine == machine), None)


def by_machine(machine: str) -> Architecture | None:
    """The architecture of kernels whose ``uname -m`` is ``machine``, None for one that is not known.

    Dumps that do not say are taken for :data:`DEFAULT`.
    """
    return next((arch for arch in ARCHITECTURES if arch.machine == machine), None) if machine else DEFAULT
