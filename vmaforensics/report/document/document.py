"""The result document: everything a report shows, without the image. Its JSON form is the interface.

Addresses, sizes of memory and flag words are hexadecimal strings: JSON numbers above 2**53 are rounded by
many readers. Strings from the image are made printable (see ``printable``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from vmaforensics.compare.side_by_side import Row  # noqa: TC001 - msgspec reads the annotation
from vmaforensics.report.formats.json_text import json_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA_VERSION = "2.0"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: immutable, and strict when a saved document is read."""


class Schema(_Part, frozen=True):
    """Which format this is. The major number changes when a reader would have to."""

    name: str = "vmaforensics-report"
    version: str = SCHEMA_VERSION


class ImageFacts(_Part, frozen=True):
    """The physical memory described, whatever file holds it."""

    page_size: int
    ram: str  # bytes
    ranges: tuple[tuple[str, str], ...]  # [start, end)


class KernelFacts(_Part, frozen=True):
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


class Evidence(_Part, frozen=True):
    """One record that takes part in a disagreement."""

    what: str
    view: str
    address: str | None
    found: str
    expected: str


class Technique(_Part, frozen=True):
    """An ATT&CK technique that a finding is consistent with."""

    id: str
    name: str


class Hexdump(_Part, frozen=True):
    """A few bytes of the image that take part in a finding."""

    what: str  # "first bytes of the area", "the vm_area_struct", …
    address: str
    data: str | None  # hexadecimal digits, at most 128; null: not in the dump


class HandCheck(_Part, frozen=True):
    """Lines to type into another tool to see the same words."""

    tool: Literal["drgn", "crash", "volshell"]
    lines: tuple[str, ...]


class Finding(_Part, frozen=True):
    """A disagreement between records."""

    id: str  # stable for one disagreement in one image: derived from rule, mm and start
    rule: str
    rule_title: str
    severity: Literal["critical", "high", "medium", "low", "info"]
    confidence: Literal["high", "medium", "low"]
    pid: int
    comm: str
    mm: str
    start: str | None
    end: str | None
    title: str
    why: str
    lock: str
    vma: str | None  # the vm_area_struct it is about, where there is one
    flags: tuple[str, ...]  # names of its vm_flags, VM_READ first
    evidence: tuple[Evidence, ...]
    dumps: tuple[Hexdump, ...]
    by_hand: tuple[HandCheck, ...]
    benign_causes: tuple[str, ...]
    attack: tuple[Technique, ...]

    def _repr_html_(self) -> str:
        """A summary, for notebooks."""
        from vmaforensics.report.formats.notebook import finding_html

        return finding_html(self)


class Seen(_Part, frozen=True, omit_defaults=True, gc=False):
    """Address of the word in each view that led to an area; null where a view does not hold it. A view the
    kernel does not have is left out."""

    list: str | msgspec.UnsetType | None = msgspec.UNSET
    rbtree: str | msgspec.UnsetType | None = msgspec.UNSET
    maple: str | msgspec.UnsetType | None = msgspec.UNSET


class Region(_Part, frozen=True, gc=False):
    """One area of one address space, over all views."""

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


class Thread(_Part, frozen=True):
    """A task of a process other than its leader."""

    tid: int
    comm: str
    task: str


class ViewSummary(_Part, frozen=True):
    """What one view holds of one address space."""

    view: str
    regions: int
    complete: bool  # False: part of it could not be read


class Counter(_Part, frozen=True):
    """A counter of mm_struct, and what the areas add up to."""

    name: str
    stored: int
    areas: int


class Process(_Part, frozen=True):
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


class Node(_Part, frozen=True):
    """A node of an index, or a link of a list, near a finding."""

    address: str
    parent: str | None  # the node above (of a list: the one before); null: the root
    kind: str  # "maple_arange_64", "maple_leaf_64", "rb_node", "vm_area_struct", …
    start: str
    end: str
    entries: int  # slots in use
    wrong: str  # what is wrong with it; empty: nothing


class MemoryMap(_Part, frozen=True):
    """One address space with every record of its regions side by side: those that findings name."""

    pid: int
    comm: str
    mm: str
    views: tuple[str, ...]
    rows: tuple[Row, ...]
    index: str  # the view the nodes are of: "maple tree", "rb tree", "vm_next list"
    nodes: tuple[Node, ...]  # the way from the root to what findings name, and its neighbours
    rows_left_out: int = 0  # rows far from what findings name, of a map too long to be told whole


class NotAssessed(_Part, frozen=True):
    """Something that could not be checked, and why."""

    what: str
    why: str
    pid: int | None = None
    count: int = 1


class FileFacts(_Part, frozen=True):
    """The image file."""

    path: str
    size: int
    format: str
    sha256: str | None  # null: not asked for
    details: dict[str, str]


class Coverage(_Part, frozen=True):
    """Pages of RAM by what the file knows of them."""

    ram: int
    present: int
    zero: int
    absent: int


class Provenance(_Part, frozen=True):
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


class Document(_Part, frozen=True):
    """A whole report."""

    schema: Schema
    image: ImageFacts
    kernel: KernelFacts
    processes: list[Process]
    findings: list[Finding]
    maps: list[MemoryMap]
    not_assessed: list[NotAssessed]
    provenance: Provenance
    maps_left_out: int = 0  # further address spaces that findings name

    def table(self, name: str) -> NDArray[np.void]:
        """ "findings", "evidence", "regions" or "processes" as a structured array; see ``report.tables``.

        Raises ``KeyError`` for any other name.

        >>> regions = document.table("regions")
        >>> regions[regions["maple"] == "missing"][["pid", "start", "end", "name"]]
        """
        from vmaforensics.report.formats.tables import table

        return table(self, name)

    def frame(self, name: str) -> Any:  # noqa: ANN401 - pandas is optional, and so is its type
        """The same as a ``pandas.DataFrame``; addresses stay ``uint64``. Raises ``ImportError`` without pandas.

        >>> document.frame("regions").groupby("name")["size"].sum()
        """
        from vmaforensics.report.formats.data_frames import frame

        return frame(self, name)

    def _repr_html_(self) -> str:
        """A summary, for notebooks."""
        from vmaforensics.report.formats.notebook import document_html

        return document_html(self)


def encode(document: Document) -> bytes:
    """The JSON form: one line, keys in the order of the schema, newline at the end."""
    return json_text(document) + b"\n"


def json_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of :class:`Document`."""
    identity: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"vmaforensics report {SCHEMA_VERSION}",
    }
    return identity | msgspec.json.schema(Document)
