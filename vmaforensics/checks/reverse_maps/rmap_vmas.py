"""The areas that reverse maps and indexes lead to, with what the checks of the reverse maps ask of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import allows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView


class Areas:
    """Columns parallel to ``RmapView.vmas``, and words about one of its rows."""

    def __init__(self, context: Context, rmap: RmapView) -> None:
        self._context, self._rmap = context, rmap
        views, areas = context.views, rmap.vmas
        mm = views.mm_rows(areas["mm"])
        #: Its vm_mm is an address space in use. One without users is being torn down (exit_mmap).
        self.live = mm >= 0
        if len(views.mms):
            self.live &= views.mms["ok"][mm] & (views.mms["users"][mm] > 0)
        #: Some index view of its own mm holds it.
        self.listed = np.zeros(len(areas), np.bool_)
        #: Every index view of its mm was read whole.
        self.index_whole = np.ones(len(areas), np.bool_)
        for view, rows in views.regions().items():
            row = rmap.vma_rows(rows["vma"])
            held = (row >= 0) & (areas["mm"][row] == rows["mm"]) if len(areas) else row >= 0
            self.listed[row[held]] = True
            self.index_whole &= context.whole(view, areas["mm"])
        size = (areas["end"] - areas["start"]) >> np.uint64(12)
        #: Pages less one: what is added to the first page to name the last.
        self.span: NDArray[np.uint64] = size - np.uint64(1)

    def text(self, row: int) -> str:
        """An area in words: what it allows, its bounds, its name."""
        one = self._rmap.vmas[row]
        vma = int(one["vma"])
        if vma not in self._rmap.strays:
            return self._context.area(vma)
        name = self._rmap.strays[vma]
        text = f"{allows(int(one['flags']))} area {int(one['start']):#x}-{int(one['end']):#x}"
        return f"{text} ({name.decode('utf-8', 'backslashreplace')})" if name else text

    def bounds(self, row: int) -> tuple[int, int] | None:
        """(vm_start, vm_end) of an area; None where it could not be read."""
        one = self._rmap.vmas[row]
        return (int(one["start"]), int(one["end"])) if one["ok"] else None

    def word(self, row: int, member: str) -> int:
        """Address of ``vm_file`` or ``vm_pgoff`` of an area."""
        return int(self._rmap.vmas["vma"][row]) + self._rmap.offsets[member]

    def file_of(self, mapping: int) -> str:
        """Path of a file with this address_space; empty if none is known."""
        files = self._context.views.files
        if files is None:
            return ""
        for row in np.flatnonzero(files.rows["mapping"] == np.uint64(mapping)).tolist():
            path = files.paths[row]
            if path:
                return path.decode("utf-8", "backslashreplace")
        return ""
