"""What to extract: the regions that a command names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.compare.ranges import mm_of, uncovered_within, vmas_within
from vmaforensics.errors import UsageError
from vmaforensics.export.extract import Region
from vmaforensics.report.document.finding_parts import finding_part
from vmaforensics.views.pages.map_counts import MapCounts
from vmaforensics.views.pages.mapped_pages import read_pages
from vmaforensics.views.pages.page_names import page_flag_names, set_flags
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.words.amounts import counted
from vmaforensics.words.permissions import vma_permissions
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.checks.finding import Finding
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

_MOST_SHOWN = 4096  # page frames whose struct pages go into the manifest


def process_regions(views: Views, pid: int, address: int) -> list[Region]:
    """The VMA of a process that covers ``address``, or the run of entries without a VMA that does.

    Raises :class:`UsageError` if there is no such process, or nothing knows the address.
    """
    mm = mm_of(views, pid)
    for start, end, row in vmas_within(views, mm, address, address + 1):
        return [_vma(views, mm, pid, row, start, end)]
    for start, end in uncovered_within(views, mm, address, address + 1):
        return [_orphans(mm, pid, start, end)]
    raise UsageError(f"neither a VMA nor a page-table entry of pid {pid} covers {address:#x}")


def finding_regions(views: Views, findings: list[Finding], wanted: str) -> list[Region]:
    """The range of the findings whose id is ``wanted``: the parts of it that VMAs or page tables know.

    A range that no VMA reaches into is one region: what was there is what the finding is about. Raises
    :class:`UsageError` if there is no such finding, or it is not about a range of a process.
    """
    meant = [found for found in findings if finding_part(found).id == wanted]
    if not meant:
        raise UsageError(f"no finding has the id {wanted}; `vmaforensics report IMAGE --format json` tells them")
    regions: dict[tuple[int, int, int], Region] = {}
    page = views.arch.page_size
    for found in meant:
        if found.start is None or found.end is None or views.mm_rows(np.array([found.mm], np.uint64))[0] < 0:
            raise UsageError(f"finding {wanted} ({found.rule.id}) is not about a range of a process's memory")
        start, end = found.start // page * page, min(-(-found.end // page) * page, views.arch.user_top)
        vmas = vmas_within(views, found.mm, start, end)
        parts = [_vma(views, found.mm, found.pid, row, max(low, start), min(high, end)) for low, high, row in vmas]
        if parts:
            runs = uncovered_within(views, found.mm, start, end)
            parts += [_orphans(found.mm, found.pid, max(low, start), min(high, end)) for low, high in runs]
        else:
            parts = [_whole(found.mm, found.pid, start, end)]
        regions |= {(part.mm or 0, part.start, part.end): part for part in parts}
    return [regions[key] for key in sorted(regions)]


def frame_regions(kernel: Kernel, first: int, count: int) -> list[Region]:
    """``count`` page frames from ``first``, with what their struct pages say. Raises :class:`UsageError`."""
    if not 0 < count <= 1 << 40 or first + count > 1 << 40:
        raise UsageError(f"{count} page frames from {first:#x} are no range of physical memory (52 bits)")
    frames = np.arange(first, first + min(count, _MOST_SHOWN), dtype=np.uint64)
    pages = read_pages(kernel, frames)
    counts = MapCounts(kernel, pages)
    names, bits = page_flag_names(kernel), kernel.types.constant("__NR_PAGEFLAGS") or 64
    facts = [
        {
            "pfn": hex(pfn),
            "head": hex(head),
            "flags": list(set_flags(names, word, bits)),
            "mapping": hex(mapping),
            "index": hex(index),
            "mapcount": maps,
            "refcount": refs,
            "anonymous": anon,
        }
        for pfn, head, word, mapping, index, refs, anon, ok, maps in zip(
            pages.pfn.tolist(),
            pages.head.tolist(),
            pages.flags.tolist(),
            pages.mapping.tolist(),
            pages.index.tolist(),
            pages.refcount.tolist(),
            pages.anon.tolist(),
            pages.ok.tolist(),
            counts.of_pages(np.arange(len(frames))).tolist(),
            strict=True,
        )
        if ok
    ]
    what = f"{counted(count, 'page frame')} from {first:#x}"
    shift = kernel.arch.page_shift
    return [
        Region(
            start=first << shift,
            end=(first + count) << shift,
            mm=None,
            pid=None,
            file=f"frames-{first:x}-{first + count:x}.bin",
            what=what,
            facts={"struct_pages": facts},
        )
    ]


def _vma(views: Views, mm: int, pid: int, row: int, start: int, end: int) -> Region:
    """The part ``[start, end)`` of the VMA at ``row`` of ``views.union``."""
    at, vma = int(views.union.vma_row[row]), hex(int(views.union.vma[row]))
    vmas = views.vmas
    if at < 0 or not vmas.ok[at]:
        what = "a VMA whose vm_area_struct is not in the dump"
        return Region.of_process(mm, pid, (start, end), what, vma=vma)
    flags, name = int(vmas.flags[at]), printable(views.names[at])
    offset = hex(int(vmas.pgoff[at]) << views.arch.page_shift) if vmas.file[at] else None
    facts = {
        "start": hex(int(vmas.start[at])),
        "end": hex(int(vmas.end[at])),
        "perms": vma_permissions(flags),
        "flags": hex(flags),
        "kind": Kind(int(vmas.kind[at])).label,
        "name": name,
        "pgoff": offset,
    }
    what = f"{vma_permissions(flags)} VMA {name}".rstrip()
    return Region.of_process(mm, pid, (start, end), what, vma=vma, area=facts)


def _orphans(mm: int, pid: int, start: int, end: int) -> Region:
    """Pages ``[start, end)`` that no VMA covers."""
    what = "memory that the page tables map and no VMA covers"
    return Region.of_process(mm, pid, (start, end), what, area=None)


def _whole(mm: int, pid: int, start: int, end: int) -> Region:
    """A range of a process of which nothing is known."""
    what = "a range that no VMA reaches into"
    return Region.of_process(mm, pid, (start, end), what, area=None)
