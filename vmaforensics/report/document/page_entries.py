"""The page-table entries of one process, each with its page and the area that claims it.

Built for one process at a time from columns; rendered as text, JSON or CSV.
"""

from __future__ import annotations

import csv
import io
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.checks.pages.page_marks import entry_marks, mark_texts
from vmaforensics.views.pages.map_counts import MapCounts
from vmaforensics.views.pages.page_names import Owner, owners, page_flag_names, set_flags
from vmaforensics.words.permissions import entry_permissions, vma_permissions
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.views import Views

STATES = {
    PteState.PRESENT: "present",
    PteState.PROTNONE: "prot_none",
    PteState.SWAP: "swap",
    PteState.OTHER: "other",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class PageRun(msgspec.Struct, frozen=True, kw_only=True):
    """One entry, or neighbouring entries that are equal but for their frames.

    ``entry``, ``pfn``, ``swap`` and ``index`` are those of the first; indices go up by one a page, and so do
    frames and places in the swap file where ``consecutive``. Addresses, frames, indices and entries are
    hexadecimal strings.
    """

    start: str
    end: str
    pages: int  # of the CPU
    entry: str
    state: str
    level: int  # of the page table, 1 is the lowest; on x86-64 1: 4 KiB, 2: 2 MiB, 3: 1 GiB
    pfn: str | None
    consecutive: bool
    swap: str | None  # type:offset
    perms: str  # over all levels
    owner: str
    mapping: str | None
    index: str | None
    mapcount: int | None
    flags: tuple[str, ...]
    vma: str | None
    area: str
    marks: tuple[str, ...]


def page_runs(kernel: Kernel, views: Views, rows: NDArray[np.intp], *, each: bool = False) -> list[PageRun]:
    """``rows`` of the page-table entries (of one mm, ascending), joined to runs unless ``each``."""
    view = views.page_tables
    if view is None or not len(rows):
        return []
    ptes = view.ptes[rows]
    arch, size, shift = kernel.arch, ptes.sizes(kernel.arch), np.uint64(kernel.arch.page_shift)
    owner, marks = owners(kernel, ptes, view.pages), entry_marks(views, rows)
    page = view.pages.take_or_fill(ptes.page_row)
    counts = np.full(len(rows), -1, np.int64)
    counts[page.ok] = MapCounts(kernel, view.pages).of_pages(ptes.page_row[page.ok])
    first = np.ones(len(rows), np.bool_)
    if not each:
        kept = _plain(kernel, ptes)
        first[1:] = ptes["va"][1:] != ptes["va"][:-1] + size[:-1]
        for column in (
            ptes["state"],
            ptes["level"],
            ptes["allow"],
            ptes["range_row"],
            kept,
            owner,
            marks,
            counts,
            page["flags"],
            page["mapping"],
        ):
            first[1:] |= column[1:] != column[:-1]
        first[1:] |= page["ok"][1:] & (page["index"][1:] != page["index"][:-1] + (size[:-1] >> shift))
    begin = np.flatnonzero(first)
    last = np.append(begin[1:], len(rows)) - 1
    swapped = ptes["state"] == PteState.SWAP
    place = np.where(swapped, arch.swap_offset(ptes.entry), ptes["pfn"])
    broken = np.concatenate([[0], np.cumsum(place[1:] != place[:-1] + (size[:-1] >> shift))])
    names, bits = page_flag_names(kernel), kernel.types.constant("__NR_PAGEFLAGS") or 64
    areas = _areas(views, view, np.unique(ptes["range_row"]))
    return [
        PageRun(
            start=hex(va),
            end=hex(end),
            pages=(end - va) >> arch.page_shift,
            entry=hex(entry),
            state=STATES[PteState(state)],
            level=level,
            pfn=hex(pfn) if state <= PteState.PROTNONE else None,
            consecutive=run,
            swap=f"{swap}:{at:#x}" if state == PteState.SWAP else None,
            perms=entry_permissions(allow, present=state == PteState.PRESENT),
            owner=Owner(own).label,
            mapping=hex(mapped) if ok and mapped else None,
            index=hex(index) if ok and mapped else None,
            mapcount=n if n >= 0 else None,
            flags=set_flags(names, word, bits) if ok else (),
            vma=areas[area][0],
            area=areas[area][1],
            marks=mark_texts(mark),
        )
        for (
            at,
            swap,
        ), va, end, entry, state, level, pfn, allow, area, run, own, mark, n, ok, mapped, index, word in zip(
            zip(place[begin].tolist(), arch.swap_type(ptes.entry[begin]).tolist(), strict=True),
            ptes["va"][begin].tolist(),
            (ptes["va"][last] + size[last]).tolist(),
            *(ptes[name][begin].tolist() for name in ("entry", "state", "level", "pfn", "allow", "range_row")),
            (broken[last] == broken[begin]).tolist(),
            owner[begin].tolist(),
            marks[begin].tolist(),
            counts[begin].tolist(),
            *(page[name][begin].tolist() for name in ("ok", "mapping", "index", "flags")),
            strict=True,
        )
    ]


def _plain(kernel: Kernel, ptes: NDArray[np.void]) -> NDArray[np.uint64]:
    """What must be equal within a run: the attributes of entries, without the frame; of swapped pages, the file."""
    entry, state = ptes["entry"], ptes["state"]
    plain, swapped = kernel.arch.attributes(entry), kernel.arch.swap_type(entry)
    return np.select([state <= PteState.PROTNONE, state == PteState.SWAP], [plain, swapped], entry)


def _areas(views: Views, view: PageTablesView, rows: NDArray[np.int64]) -> dict[int, tuple[str | None, str]]:
    """(address of the vm_area_struct, the area in words) by row of ``view.ranges``."""
    told_: dict[int, tuple[str | None, str]] = {-1: (None, "in no area")}
    for row in rows[rows >= 0].tolist():
        area = view.ranges[row]
        at = int(area["vma_row"])
        vma = int(views.vmas.vma[at])
        if at < 0 or not views.vmas["ok"][at]:
            told_[row] = hex(vma), f"{int(area['start']):x}-{int(area['end']):x} ?"
            continue
        one = views.vmas[at]
        bounds = f"{int(one['start']):x}-{int(one['end']):x}"
        told_[row] = hex(vma), f"{bounds} {vma_permissions(int(one['flags']))} {printable(views.names[at])}".rstrip()
    return told_


def render_text(runs: list[PageRun]) -> Iterator[str]:
    """A heading per area, a line per run. A mark ``!`` begins lines where page and area disagree."""
    for (vma, area), group in groupby(runs, key=lambda one: (one.vma, one.area)):
        yield f"area {area}  (vm_area_struct {vma})\n" if vma else f"{area}\n"
        yield (
            f"  {'address':>16} {'pages':>6} {'entry':>18} {'state':9} {'L':1} {'frame':>10} {'perm':4} {'owner':13} "
            f"{'index':>12} {'mapping':>18} {'maps':>5}  flags\n"
        )
        for one in group:
            frame = one.pfn or one.swap or "-"
            frame += "" if one.consecutive or frame == "-" else "…"
            line = (
                f"{'!' if one.marks else ' '} {one.start[2:]:>16} {one.pages:6} {one.entry:>18} {one.state:9} "
                f"{one.level} {frame:>10} {one.perms:4} {one.owner:13} {one.index or '-':>12} {one.mapping or '-':>18} "
                f"{'-' if one.mapcount is None else one.mapcount:>5}  {','.join(one.flags)}"
            )
            yield line.rstrip() + "\n"
            if one.marks:
                yield f"  ^ {'; '.join(one.marks)}\n"


def render_csv(runs: list[PageRun]) -> str:
    """RFC 4180 with a header; lists are joined by ``;``. No cell can be taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    names = PageRun.__struct_fields__
    writer.writerow(names)
    for one in runs:
        writer.writerow([_cell(getattr(one, name)) for name in names])
    return out.getvalue()


def _cell(value: object) -> str:
    text = "" if value is None else "; ".join(value) if isinstance(value, tuple) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
