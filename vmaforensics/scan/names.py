"""Whose what was found is: processes, regions and the records that show them, files and who keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import sort_order
from vmaforensics.scan.document import Owner
from vmaforensics.scan.places import PlaceKind
from vmaforensics.words.permissions import entry_permissions, vma_permissions
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from vmaforensics.compare.known_regions import KnownRegions
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.scan.places import Mapped
    from vmaforensics.views.views import Views

MOST_OWNERS = 64
_MOST_HOLDERS = 8


class Names:
    """Names what was found in an image."""

    def __init__(self, kernel: Kernel, views: Views, regions: KnownRegions, mapped: Mapped) -> None:
        self._kernel, self._views, self._regions, self._mapped = kernel, views, regions, mapped
        self._order = sort_order(mapped.pfn, mapped.mm_row, mapped.va)
        self._sorted = mapped.pfn[self._order]
        self._files = _file_names(views)

    def owners(self, pfn: int, offset: int) -> tuple[tuple[Owner, ...], int]:
        """The processes that have byte ``offset`` of a frame, and how many more there are than are told."""
        key = np.uint64(pfn)
        low, high = int(np.searchsorted(self._sorted, key)), int(np.searchsorted(self._sorted, key, "right"))
        rows = self._order[low : min(high, low + MOST_OWNERS)].tolist()
        return tuple(self._owner(row, offset) for row in rows), high - low - len(rows)

    def _owner(self, row: int, offset: int) -> Owner:
        mms, regions = self._views.mms, self._regions
        mm_row, region = int(self._mapped.mm_row[row]), int(self._mapped.region[row])
        known = region >= 0
        perms = ""
        if known:
            flags, allow = int(regions.rows.flags[region]), int(regions.rows.allow[region])
            perms = vma_permissions(flags) if regions.rows.vma[region] else entry_permissions(allow)
        return Owner(
            pid=int(mms.pid[mm_row]),
            comm=printable(comm_of(mms.comm[mm_row])),
            mm=hex(int(mms.mm[mm_row])),
            address=hex(int(self._mapped.va[row]) + offset),
            start=hex(int(regions.rows.start[region])) if known else None,
            end=hex(int(regions.rows.end[region])) if known else None,
            perms=perms,
            name=printable(regions.name(region)) if known else "",
            hidden=bool(regions.rows.hidden[region]) if known else False,
            shown_by=regions.records(region) if known else ("page tables",),
        )

    def place(self, kind: PlaceKind, owner: int, start: int) -> str:
        """What was scanned, in words; ``owner`` as of ``PlacePages``, ``start`` its first byte there."""
        if kind is PlaceKind.FILE:
            mapping = owner % (1 << 64)
            return f"{self.file(mapping)}, from byte {start:#x}"
        if kind is PlaceKind.REGION:
            mm_row = int(self._regions.rows.mm_row[owner]) if owner >= 0 else -2 - owner
            mms = self._views.mms
            whose = f"pid {int(mms.pid[mm_row])} ({printable(comm_of(mms.comm[mm_row]))})"
            name = printable(self._regions.name(owner)) if owner >= 0 else ""
            hidden = "hidden " if owner < 0 or self._regions.rows.hidden[owner] else ""
            return f"{hidden}memory of {whose} at {start:#x}{f', {name}' if name else ''}"
        if kind is PlaceKind.TASKLESS:
            return f"{kind.label}, at {start:#x}"
        return f"{kind.label}, physical {start:#x}"

    def pid(self, kind: PlaceKind, owner: int) -> int | None:
        """The process whose memory was scanned."""
        if kind is not PlaceKind.REGION:
            return None
        mm_row = int(self._regions.rows.mm_row[owner]) if owner >= 0 else -2 - owner
        return int(self._views.mms.pid[mm_row])

    def file(self, mapping: int) -> str:
        """The name of a file by its address_space."""
        return self._files.get(mapping) or f"a file (address_space {mapping:#x})"

    def holders(self, mapping: int) -> tuple[str, ...]:
        """Descriptors that keep a memory file, in words."""
        handles = self._views.handles
        if handles is None:
            return ()
        files, descriptors = handles.memory_files, handles.descriptors
        at = np.flatnonzero(files.mapping == np.uint64(mapping))
        if not len(at):
            return ()
        rows = np.flatnonzero(descriptors.inode == files.inode[int(at[0])])
        told = [f"descriptor {int(descriptors.fd[row])} of pid {int(descriptors.pid[row])}" for row in rows.tolist()]
        return (*told[:_MOST_HOLDERS], *([f"{len(told) - _MOST_HOLDERS} more"] if len(told) > _MOST_HOLDERS else []))


def _file_names(views: Views) -> dict[int, str]:
    """Name of each file that something names, by address_space."""
    names: dict[int, str] = {}
    if views.handles is not None:
        mappings = views.handles.memory_files.mapping.tolist()
        for mapping, name in zip(mappings, views.handles.names, strict=True):
            names[mapping] = f"memory file {printable(name)}" if name else "memory file without a name"
    if views.files is not None:
        for mapping, path in zip(views.files.rows.mapping.tolist(), views.files.paths, strict=True):
            if path:
                names[mapping] = printable(path)
    return names
