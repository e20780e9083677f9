"""The kernel's code in memory beside that of the file it was booted from, and what the kernel patches in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaforensics.columns.types import U8, U64


class LinkedSection(NamedTuple):
    """A section of the file: where it was linked to, and its bytes."""

    address: int
    data: U8


class PatchedPlaces(NamedTuple):
    """Places that records of the kernel name, by address in memory; a row of two arrays belongs together."""

    entries: U64  # entries of functions that can be traced
    calls: U64  # static calls
    labels: U64  # jump labels
    label_targets: U64
    trampolines: U64  # of static calls
    trampoline_targets: U64  # what the key of each calls; 0: nothing
    probes: U64  # where a kprobe has put a breakpoint, or a jump to its own copies of code
    tracers: U64  # functions that tracers on the list have called


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceText:
    """A section of code; ``found`` and ``linked`` have the same length."""

    start: int  # address in memory
    found: U8  # bytes in memory; what is not in the image is as it was linked
    linked: U8  # bytes of the file
    moved: int  # how far the kernel was moved from where it was linked
    sections: Mapping[str, LinkedSection]  # of the file, this one among them
