"""The part of the document on where the memory went. Sizes are bytes unless a name says otherwise."""

from __future__ import annotations

import msgspec


class MemoryPiece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part here."""


class FigurePart(MemoryPiece, frozen=True):
    """A line of /proc/meminfo: ``value`` as it shows it, in ``unit`` ("kB", or "" for a number of huge pages);
    ``exact`` with what CPUs had not added to the counters yet."""

    name: str
    value: int
    unit: str
    exact: int


class ProcessMemory(MemoryPiece, frozen=True):
    """What a process has in memory. Shared pages count for each that maps them."""

    pid: int
    comm: str
    mm: str
    resident: int
    anonymous: int
    file: int
    shared_memory: int
    swapped: int
    page_tables: int


class SlabPart(MemoryPiece, frozen=True):
    """A slab cache: ``objects`` are those that its slabs have room for; ``kinds`` have been merged into it."""

    name: str
    cache: str
    objects: int
    object_size: int
    slabs: int
    size: int
    kinds: int


class ShmemPart(MemoryPiece, frozen=True):
    """A file that lives in memory: the type of its file system, and its path in there."""

    name: str
    inode: str
    length: int
    resident: int
    swapped: int


class VmallocPart(MemoryPiece, frozen=True):
    """Who allocated by vmalloc, by the function that called it."""

    caller: str
    address: str
    size: int
    areas: int


class OomTask(MemoryPiece, frozen=True):
    """A row of the table of tasks in a report of the OOM killer."""

    pid: int
    name: str
    resident: int
    swapped: int


class OomPart(MemoryPiece, frozen=True):
    """The last report of the OOM killer in the log; ``killed`` is its line, null where it killed nobody."""

    time: str
    invoked: str
    constraint: str | None
    killed: str | None
    largest: list[OomTask]
    tasks: int


class MemoryPart(MemoryPiece, frozen=True):
    """Where the memory went. ``on_cpus`` is free and kept on lists of CPUs; ``unaccounted`` is in nothing else here,
    as what drivers hold."""

    figures: list[FigurePart]
    on_cpus: int | None
    unaccounted: int | None
    processes: list[ProcessMemory]
    slabs: list[SlabPart]
    slab_caches: int
    shmem: list[ShmemPart]
    vmalloc: list[VmallocPart]
    oom: OomPart | None
