"""The document of one memory map with every record beside the others: what ``views --format json`` writes."""

from __future__ import annotations

import msgspec

from vmaforensics.compare.cells import StateWord  # noqa: TC001 - msgspec reads the annotation


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part."""


class Schema(_Part, frozen=True):
    """Which format this is."""

    name: str = "vmaforensics-views"
    version: str = "1.0"


class Cell(_Part, frozen=True, omit_defaults=True):
    """What one view says of one region.

    ``held``: it has a record of it, at ``address``. ``missing``: it was read whole and has none, or one that
    says otherwise. ``unread``: it has none that could be read. ``none``: it need not have one.
    """

    state: StateWord
    address: str | None = None
    note: str = ""


class Row(_Part, frozen=True):
    """A region: a VMA, or a run of page-table entries that no VMA covers (``vma`` is null then)."""

    start: str
    end: str
    perms: str
    name: str
    vma: str | None
    cells: dict[str, Cell]


class Member(_Part, frozen=True):
    """A member of a structure, by the kernel's own types; ``size`` and ``offset`` in bytes."""

    name: str
    offset: int
    size: int
    value: str
    meaning: str = ""


class Step(_Part, frozen=True):
    """A record on the way from the task to the pages."""

    record: str
    address: str | None
    facts: dict[str, str]
    level: int = 0


class Detail(_Part, frozen=True):
    """Everything known of one region."""

    start: str
    end: str
    vma: str | None
    members: list[Member]
    chain: list[Step]


class RecordsDocument(_Part, frozen=True):
    """The memory map of one process."""

    schema: Schema
    pid: int
    comm: str
    task: str
    mm: str
    lock: str
    views: list[str]
    rows: list[Row]
    at: str | None = None
    details: list[Detail] = []
