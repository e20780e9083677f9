"""The architectures there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.arch.x86_64.architecture import X86_64

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture

ARCHITECTURES: tuple[Architecture, ...] = (X86_64(),)
DEFAULT: Architecture = ARCHITECTURES[0]  # of an image whose container does not name one


def by_elf_machine(machine: str) -> Architecture | None:
    """The architecture of ELF files of ``machine`` ("EM_X86_64"), None for one that is not known."""
    return next((arch for arch in ARCHITECTURES if arch.elf_machine == machine), None)


def by_machine(machine: str) -> Architecture | None:
    """The architecture of kernels whose ``uname -m`` is ``machine``, None for one that is not known.

    Dumps that do not say are taken for :data:`DEFAULT`.
    """
    return next((arch for arch in ARCHITECTURES if arch.machine == machine), None) if machine else DEFAULT
