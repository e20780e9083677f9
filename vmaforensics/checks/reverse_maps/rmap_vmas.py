"""The VMAs that reverse maps and indices lead to, with what the checks of the reverse maps ask of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import vma_text
from vmaforensics.columns.lookup import values_at
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Evidence, Finding
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView


class RmapVmas:
    """Columns parallel to ``RmapView.vmas``, and the words for a row."""

    def __init__(self, context: Context, rmap: RmapView) -> None:
        self._context, self.rmap = context, rmap
        views, vmas = context.views, rmap.vmas
        #: Its vm_mm is an address space in use. One without users is being torn down (exit_mmap).
        self.live: Bools = values_at(views.mms.ok & (views.mms.users > 0), views.mm_rows(vmas.mm))
        #: Some index view of its own mm holds it.
        self.listed: Bools = np.zeros(len(vmas), np.bool_)
        #: Every index view of its mm was read whole.
        self.index_whole: Bools = np.ones(len(vmas), np.bool_)
        for view, entries in views.indices().items():
            row = rmap.vma_rows(entries.vma)
            held = (row >= 0) & (values_at(vmas.mm, row) == entries.mm)
            self.listed[row[held]] = True
            self.index_whole &= context.whole(view, vmas.mm)
        #: It is in its own index and can be held against the reverse maps.
        self.judged: Bools = vmas.ok & self.live & self.listed
        #: Pages less one: what is added to the first page to name the last.
        self.span: U64 = views.arch.pages(vmas.end - vmas.start) - np.uint64(1)

    def text(self, row: int) -> str:
        """A VMA in words: what it allows, its bounds, its name."""
        vmas = self.rmap.vmas
        vma = int(vmas.vma[row])
        if vma not in self.rmap.strays:
            return self._context.vma_in_words(vma)
        return vma_text(int(vmas.flags[row]), int(vmas.start[row]), int(vmas.end[row]), self.rmap.strays[vma])

    def bounds(self, row: int) -> tuple[int, int] | None:
        """(vm_start, vm_end) of a VMA; None where it could not be read."""
        vmas = self.rmap.vmas
        return (int(vmas.start[row]), int(vmas.end[row])) if vmas.ok[row] else None

    def member_address(self, row: int, member: str) -> int:
        """Address of ``vm_file`` or ``vm_pgoff`` of a VMA."""
        return int(self.rmap.vmas.vma[row]) + self.rmap.offsets[member]

    def file_of(self, mapping: int) -> str:
        """Path of a file with this address_space; empty if none is known."""
        files = self._context.views.files
        if files is None:
            return ""
        for row in np.flatnonzero(files.rows.mapping == np.uint64(mapping)).tolist():
            path = files.paths[row]
            if path:
                return decoded(path)
        return ""

    def findings(
        self,
        rule: Rule,
        rows: I64,
        evidence: Callable[[int], Evidence],
        title: Callable[[int], str],
        *,
        ranged: bool = True,
    ) -> Iterator[Finding]:
        """One finding for each address space that some of the VMAs ``rows`` belong to.

        ``evidence`` and ``title`` are asked with positions in ``rows``. Findings that are ``ranged`` have the bounds
        of their VMAs.
        """
        yield from self._context.per_mm(
            rule, self.rmap.vmas.mm[rows], evidence, title, lambda at: self.bounds(int(rows[at])) if ranged else None
        )


def rmap_vmas(context: Context) -> RmapVmas | None:
    """The VMAs of the reverse maps; None where these could not be read. Ask for it by ``context.shared``."""
    return RmapVmas(context, context.views.rmap) if context.views.rmap is not None else None
