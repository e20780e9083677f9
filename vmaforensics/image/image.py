"""What opening an image file yields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.memory import PhysicalMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuState:
    """What the dump's notes say of one CPU. ``None``: not recorded there."""

    cpu: int
    cr3: int | None = None
    cr4: int | None = None
    rip: int | None = None
    rsp: int | None = None
    pid: int | None = None


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
    others: tuple[Path, ...] = ()  # the further parts of a split dump
    vmcoreinfo: bytes | None = None
    cpus: tuple[CpuState, ...] = ()
    notes: tuple[Note, ...] = ()
    details: dict[str, str] = field(default_factory=dict)  # header facts worth showing, in order
    symbols: Path | None = None  # a symbol file (ISF) for its kernel, given by the user
    problems: tuple[str, ...] = ()  # what the container promises and the file does not hold

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file of the image."""
        return (self.path, *self.others)
