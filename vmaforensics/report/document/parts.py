"""The parts of the result document except for findings: what was read, the processes, and what could not be assessed.

Addresses, sizes of memory and flag words are hexadecimal strings: JSON numbers above 2**53 are rounded by many
readers. Strings from the image are made printable (see ``printable``).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from vmaforensics.compare.nearby.node import Node  # noqa: TC001 - msgspec reads the annotation
from vmaforensics.compare.records_document import Row  # noqa: TC001

SCHEMA_VERSION = "2.1"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: immutable, and strict when a saved document is read."""


class Schema(Part, frozen=True):
    """Which format this is. The major number changes when a reader would have to."""

    name: str = "vmaforensics-report"
    version: str = SCHEMA_VERSION


class ImageFacts(Part, frozen=True):
    """The physical memory described, whatever file holds it."""

    page_size: int
    ram: str  # bytes
    ranges: tuple[tuple[str, str], ...]  # [start, end)


class KernelFacts(Part, frozen=True):
    """The kernel of the image."""

    release: str
    banner: str
    build_id: str | None
    architecture: str
    page_table_levels: int
    page_table_isolation: bool | None
    kaslr_offset: str | None
    phys_base: int
    hostname: str
    booted: str | None  # UTC, ISO 8601, to the second; null: the clock could not be read
    clock: str | None  # the kernel's own time when the image was taken
    crashed: str | None  # CRASHTIME of VMCOREINFO
    processes: int
    threads: int
    kernel_threads: int
    address_spaces: int
    views: tuple[str, ...]  # the records that were read, in the order of the report


class Seen(Part, frozen=True, omit_defaults=True, gc=False):
    """Address of the word in each view that leads to the VMA; null where a view does not hold it. A view the
    kernel does not have is left out."""

    list: str | msgspec.UnsetType | None = msgspec.UNSET
    rbtree: str | msgspec.UnsetType | None = msgspec.UNSET
    maple: str | msgspec.UnsetType | None = msgspec.UNSET


class Region(Part, frozen=True, gc=False):
    """One VMA of one address space, over all views."""

    start: str
    end: str
    perms: str
    flags: str
    pgoff: str  # bytes into the file
    kind: str
    name: str
    dev: str  # major:minor, hexadecimal as in /proc/PID/maps
    inode: int
    vma: str
    readable: bool
    seen: Seen


class Thread(Part, frozen=True):
    """A task of a process other than its leader."""

    tid: int
    comm: str
    task: str


class ViewSummary(Part, frozen=True):
    """What one view holds of one address space."""

    view: str
    regions: int
    complete: bool  # False: part of it could not be read


class Counter(Part, frozen=True):
    """A counter of mm_struct, and what the VMAs add up to."""

    name: str
    stored: int
    areas: int


class Process(Part, frozen=True):
    """A process: its leader, its threads, its memory map."""

    pid: int
    comm: str
    exe: str  # path of exe_file; empty: none, or not in the dump
    parent: int | None  # pid of real_parent
    started: str | None  # UTC, ISO 8601; null: the clock could not be read
    kind: Literal["user", "kernel", "exited"]
    task: str
    mm: str | None
    lock: str | None
    shares_with: int | None  # pid whose regions are this process's too
    threads: tuple[Thread, ...]
    views: tuple[ViewSummary, ...]
    counters: tuple[Counter, ...]
    regions: list[Region]

    @property
    def seen(self) -> bool:
        """Whether it is a user process of whose memory map some record could be read."""
        return self.kind == "user" and any(view.regions for view in self.views)


class MemoryMap(Part, frozen=True):
    """One address space with every record of its regions side by side: those that findings name."""

    pid: int
    comm: str
    mm: str
    views: tuple[str, ...]
    rows: tuple[Row, ...]
    index: str  # the view the nodes are of: "maple tree", "rb tree", "vm_next list"
    nodes: tuple[Node, ...]  # the way from the root to what findings name, and its neighbours
    rows_left_out: int = 0  # rows far from what findings name, of a map too long to be shown whole


class NotAssessed(Part, frozen=True):
    """Something that could not be checked, and why."""

    what: str
    why: str
    pid: int | None = None
    count: int = 1


class FileFacts(Part, frozen=True):
    """The image file."""

    path: str
    size: int
    format: str
    sha256: str | None  # null: not asked for
    details: dict[str, str]


class Coverage(Part, frozen=True):
    """Pages of RAM by what the file knows of them."""

    ram: int
    present: int
    zero: int
    absent: int


class Provenance(Part, frozen=True):
    """Where the facts come from. Two reports of one memory in two containers differ here only."""

    tool: str
    version: str
    python: str
    dependencies: dict[str, str]
    file: FileFacts
    coverage: Coverage
    vmcoreinfo: str | None
    symbols: str
    types: str
    translation: str
