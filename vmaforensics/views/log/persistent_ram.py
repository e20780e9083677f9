"""Zones of memory in which ramoops keeps what a kernel said as it died, for the next one (fs/pstore/ram_core.c).

They lie in memory that the kernel was told to leave alone, so outside of what it calls System RAM, or in RAM that
ramoops has mapped a second time. A zone begins with a ``struct persistent_ram_buffer``: signature, start, size, data.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.kernel.ram import system_ram
from vmaforensics.views.log.bytes_held import read_held
from vmaforensics.views.objects.vmalloc import all_areas
from vmaforensics.views.stacks.modules import module_memory
from vmaforensics.views.system.modules import read_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel

_SIGNATURE: Final = b"DBGC"  # PERSISTENT_RAM_SIG, 0x43474244
_HEADER: Final = struct.Struct("<4sII")  # sig, start, size
_MOST_BYTES: Final = 64 << 20  # of such memory that are looked through
_LARGEST: Final = 16 << 20  # bytes of a zone
_MOST_ZONES: Final = 1024
_MODULE: Final = b"ramoops"


class Zone(NamedTuple):
    """A zone with something in it."""

    physical: int
    data: bytes  # as it was written, the oldest first


def read_zones(kernel: Kernel) -> list[Zone]:
    """Every zone with data in it, by address; those of which the image lacks a part are left out."""
    found: dict[int, Zone] = {}
    with kernel.memory.untraced():
        pieces = [*_left_alone(kernel), *_mapped(kernel)]
    for physical, raw in pieces:
        for zone in _zones_in(physical, raw):
            if len(found) < _MOST_ZONES and zone.physical not in found:
                found[zone.physical] = zone
                kernel.memory.touch(zone.physical, _HEADER.size + len(zone.data))
    return [found[at] for at in sorted(found)]


def _left_alone(kernel: Kernel) -> Iterator[tuple[int, bytes]]:
    """(physical address, bytes) of the memory in the image that is no System RAM."""
    ram = system_ram(kernel.space, kernel.symbols, kernel.types)
    if not ram:
        return
    left = _MOST_BYTES
    for start, end in kernel.memory.ranges.tolist():
        at = start
        for low, high in [*ram, (end, end)]:
            if at < min(low, end) and left > 0:
                size = min(min(low, end) - at, left)
                left -= size
                yield at, _physical(kernel, at, size)
            at = max(at, high)


def _physical(kernel: Kernel, address: int, size: int) -> bytes:
    """Bytes at a physical address, zeros where the image has none."""
    page = kernel.memory.page_size
    first = address - address % page
    pages = np.arange(first, address + size, page, dtype=np.uint64)
    data, ok = kernel.memory.gather(pages, page)
    data[~ok] = 0
    return data.reshape(-1)[address - first : address - first + size].tobytes()


def _mapped(kernel: Kernel) -> Iterator[tuple[int, bytes]]:
    """The same of what ramoops has mapped."""
    modules = read_modules(kernel).modules
    rows = [row for row in range(len(modules)) if modules.name_of(row) == _MODULE]
    if not rows:
        return
    areas, left = all_areas(kernel), _MOST_BYTES
    asked = np.zeros(len(areas), np.bool_)
    for part in module_memory(kernel, modules.module[rows]):
        asked |= ((areas.caller[:, None] >= part.start) & (areas.caller[:, None] < part.end)).any(axis=1)
    for start, end in zip(areas.start[asked].tolist(), areas.end[asked].tolist(), strict=True):
        size = end - start
        if not 0 < size <= left:
            continue
        left -= size
        pas, _, mapped = kernel.space.translate(np.array([start], np.uint64))
        if mapped[0]:
            yield int(pas[0]), read_held(kernel, start, size).data


def _zones_in(physical: int, raw: bytes) -> Iterator[Zone]:
    """The zones in ``raw``, which lies at a physical address; they need not begin at pages, nor at words."""
    at = raw.find(_SIGNATURE)
    while at >= 0:
        begin = at + _HEADER.size
        if len(raw) >= begin:
            _, start, size = _HEADER.unpack_from(raw, at)
            if 0 < size <= min(_LARGEST, len(raw) - begin) and start <= size:
                # A zone that has gone round goes on at its start (persistent_ram_save_old).
                yield Zone(physical + at, raw[begin + start : begin + size] + raw[begin : begin + start])
        at = raw.find(_SIGNATURE, at + len(_SIGNATURE))
