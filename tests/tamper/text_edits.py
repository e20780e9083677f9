"""Labelled edits of code: an anonymous copy with other bytes in the place of a page of the page cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tamper.edits import Label
from vmaforensics.arch.page_tables import PteState
from vmaforensics.arch.x86_64 import bits
from vmaforensics.views.pages.frame_kinds import FrameKind, classify_frames
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.pages.rss import KINDS
from vmaforensics.views.structures.xarray import entries_at
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Edit

    from vmaforensics.views.pages.mapped_pages import Pages
    from vmaforensics.views.pages.ptes import Ptes
    from vmaforensics.views.vmas.vmas import Vmas

PAGE = 4096
PLACE = 0x340  # of the bytes that are changed, in the page


def free_frame(edit: Edit) -> int:
    """A frame that belongs to nobody."""
    kinds = classify_frames(edit.kernel)
    free = kinds.all_of(FrameKind.FREE)
    assert len(free), "no free frame"
    return int(free[len(free) // 2])


def _struct_page(edit: Edit, pfn: int) -> int:
    reader = PageReader(edit.kernel)
    return int(reader.base) + pfn * reader.size


def _change(edit: Edit, address: int, by: int, size: int = 8) -> None:
    edit.put(address, (edit.get(address) + by) % (1 << 8 * size), size)


def count_pages(edit: Edit, mm: int, kind: str, by: int) -> None:
    """add_mm_counter: the part that is kept in mm_struct itself."""
    number = edit.kernel.types.constant(kind)
    assert number is not None
    if edit.kernel.has("mm_struct", "rss_stat.counters"):  # struct percpu_counter[] since 6.2
        field = edit.kernel.member("mm_struct", "rss_stat")
        where = mm + field.offset + number * field.size + edit.kernel.offset("percpu_counter", "count")
    else:
        where = edit.at("mm_struct", mm, "rss_stat.count") + 8 * number
    _change(edit, where, by)


class _Target(NamedTuple):
    """Code to be replaced, in tables of one row each."""

    pte: Ptes
    vma: Vmas
    page: Pages
    model: Ptes  # the entry of an anonymous copy in the same VMA


def _target(edit: Edit) -> _Target:
    """Code beside an anonymous copy, in a process that nobody debugs.

    The copy that a real write left there (a uprobe's) tells what another one looks like.
    """
    view = edit.views.page_tables
    assert view is not None
    assert edit.views.files is not None
    ptes = view.ptes
    ptes = ptes.take((ptes.page_row >= 0) & (ptes.range_row >= 0) & (ptes.state == PteState.PRESENT))
    vma_row = view.ranges.vma_row[ptes.range_row]
    vmas, pages = edit.views.vmas.take(vma_row), view.pages.take(ptes.page_row)
    code = (vmas.kind == Kind.FILE) & (vmas.anon_vma != 0) & (ptes.level == 1) & ~pages.compound
    code &= (vmas.flags & np.uint64(flags.VM_EXEC | flags.VM_WRITE | flags.VM_ACCOUNT)) == np.uint64(flags.VM_EXEC)
    tasks = edit.views.tasks
    debugged, _ = edit.kernel.gather_member("task_struct", "ptrace", tasks.task)
    code &= ~np.isin(vmas.mm, tasks.mm[debugged != 0])
    copies = np.flatnonzero(code & pages.anon & (pages.mapcount == 1))
    mapping = edit.views.files.rows.mapping[vmas.file_row]
    for copy in copies.tolist():
        same = code & ~pages.anon & (ptes.range_row == ptes.range_row[copy])
        for at in np.flatnonzero(same).tolist():
            heads, _ = edit.kernel.gather_member("address_space", "i_pages.xa_head", mapping[[at]])
            entry, ok = entries_at(edit.kernel, heads, pages.index[[at]])
            if ok[0] and int(entry[0]) == _struct_page(edit, int(pages.pfn[at])):
                one = slice(at, at + 1)
                return _Target(ptes.take(one), vmas.take(one), pages.take(one), ptes.take(slice(copy, copy + 1)))
    raise AssertionError("no code beside an anonymous copy, of a file whose page cache can be looked up")


def _copied(edit: Edit, change: Callable[[bytearray], None], technique: str) -> Label:
    """What do_wp_page leaves of a write to private code, with ``change`` made to the copy.

    New frame, struct page, entry, map and reference counts and the resident counters; the file's page stays in the
    page cache. Where the image does not hold what the page cache has (an excerpt), it gets contents of its own.
    """
    pte, vma, page, model = _target(edit)
    mm, frame, old = int(vma.mm[0]), free_frame(edit), int(page.pfn[0])
    data, ok = edit.overlay.gather(np.array([old << 12], np.uint64), PAGE)
    content = bytearray(data[0].tobytes()) if ok[0] else bytearray(bytes(range(256)) * 16)
    edit.overlay.write(old << 12, bytes(content))
    change(content)
    edit.overlay.write(frame << 12, bytes(content))
    copy, new = _struct_page(edit, int(model.pfn[0])), _struct_page(edit, frame)
    for at in range(0, PageReader(edit.kernel).size, 8):
        edit.put(new + at, edit.get(copy + at))
    index = (int(pte.va[0]) - int(vma.start[0]) >> 12) + int(vma.anon_pgoff[0])
    edit.put(new + edit.kernel.member("page", "index|__folio_index").offset, index)
    for member in ("_mapcount.counter", "_refcount.counter"):
        _change(edit, edit.at("page", _struct_page(edit, old), member), -1, 4)
    entry = int(pte.entry[0]) & ~bits.ADDRESS_MASK | frame << 12
    edit.overlay.write(int(pte.where[0]), entry.to_bytes(8, "little"))
    count_pages(edit, mm, KINDS[3] if page.swapbacked[0] else KINDS[0], -1)
    count_pages(edit, mm, KINDS[1], 1)
    pid = int(edit.views.mms.pid[pte.mm_row[0]])
    return Label(technique=technique, pid=pid, start=int(pte.va[0]), end=int(pte.va[0]) + PAGE)


def text_page_replaced(edit: Edit) -> Label:
    """A page of code replaced by an anonymous copy in which a jump has been written."""

    def change(content: bytearray) -> None:
        jump = b"\x49\xbb\xef\xbe\xad\xde\xff\x7f\0\0\x41\xff\xe3"  # movabs to r11; jmp *r11
        content[PLACE : PLACE + len(jump)] = bytes(
            new if new != old else new ^ 0x55 for new, old in zip(jump, content[PLACE : PLACE + len(jump)], strict=True)
        )

    return _copied(edit, change, "text page replaced")


def breakpoint_left(edit: Edit) -> Label:
    """A breakpoint where no uprobe is registered, in a process that nobody debugs."""

    def change(content: bytearray) -> None:
        at = next(at for at in range(PLACE, PAGE) if content[at] != 0xCC)
        content[at] = 0xCC

    return _copied(edit, change, "breakpoint nobody accounts for")


TEXT_EDITS: tuple[Callable[[Edit], Label], ...] = (text_page_replaced, breakpoint_left)
