"""What opening an image file yields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmaforensics.arch.known import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.arch.registers import CpuState
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.image.source import Mapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An ELF note of the dump, kept as it came so that it can be copied into another dump."""

    name: str  # Latin-1, without the terminating NUL
    type: int
    desc: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An opened image: its physical memory and whatever its container says about the machine."""

    path: Path
    size: int  # in bytes, of all its files
    format: str  # "raw", "elf", "lime", "avml", "kdump"
    memory: PhysicalMemory
    arch: Architecture = DEFAULT  # of the machine, as far as the container says
    others: tuple[Path, ...] = ()  # the further parts of a split dump
    vmcoreinfo: bytes | None = None
    cpus: tuple[CpuState, ...] = ()
    notes: tuple[Note, ...] = ()
    details: dict[str, str] = field(default_factory=dict)  # header facts worth showing, in order
    symbols: Path | Sequence[Path] | None = None  # symbol files of its kernel, given by the user
    kernel: int | None = None  # which of several kernels in it the user asked for, counted from 1
    problems: tuple[str, ...] = ()  # what the container promises and the file does not hold
    files: tuple[Mapped, ...] = ()  # as they are mapped

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file of the image."""
        return (self.path, *self.others)

    def release(self) -> None:
        """Let go of the pages of its files that are in memory: they count as ours as long as they are mapped."""
        for file in self.files:
            file.release()
