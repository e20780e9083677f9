"""What single page frames are used for, and whose they are, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of, values_at
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.objects.maps import owner_texts
from vmaforensics.views.objects.things import file_of_mapping, vmas_of_anon
from vmaforensics.views.pages.frame_kinds import FrameKind, kinds_of_frames
from vmaforensics.views.pages.mapped_pages import read_pages
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.slab.any_cache import find_objects
from vmaforensics.views.vmas.vmas import read_vmas

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.objects.surroundings import Surroundings
    from vmaforensics.views.pages.mapped_pages import Pages


_MOST_TABLES: Final = 1 << 15  # of all processes; with more of them whose one is, is not looked up
WRONG_MAPPING: Final = "but its mapping is an anon_vma, without the mark that anonymous pages have"


def frame_texts(surroundings: Surroundings, frames: I64) -> list[str]:
    """What each frame is used for: ``page cache, page 3 of inode 12, /usr/bin/awk``."""
    kernel = surroundings.kernel
    pfns = frames.astype(np.uint64)
    try:
        kinds = kinds_of_frames(kernel, pfns)
        pages = read_pages(kernel, pfns)
    except KernelNotFoundError:
        return ["unknown"] * len(frames)
    texts = [FrameKind(kind).label for kind in kinds.tolist()]
    for kind, tell in (
        (FrameKind.PAGE_CACHE, _cached),
        (FrameKind.ANONYMOUS, _anonymous),
        (FrameKind.SWAP_CACHE, _anonymous),
    ):
        rows = np.flatnonzero((kinds == kind) & pages.ok)
        if len(rows):
            for row, text in zip(rows.tolist(), tell(surroundings, pages.take(rows)), strict=True):
                texts[row] += f", {text}" if text else ""
    roots = _root_frames(surroundings)  # which bear no mark
    rows = np.flatnonzero((kinds == FrameKind.PAGE_TABLE) | ((kinds == FrameKind.KERNEL) & np.isin(pfns, roots)))
    if len(rows):
        for row, text in zip(rows.tolist(), _tables(surroundings, pfns[rows]), strict=True):
            texts[row] = text or texts[row]
    return texts


def _cached(surroundings: Surroundings, pages: Pages) -> list[str]:
    """The file, and which of its pages; or what else the mapping leads to, that should be an address_space."""
    kernel = surroundings.kernel
    files = file_of_mapping(surroundings, pages.mapping)
    found = find_objects(kernel, pages.mapping, ProblemLog())
    anon = kernel.variable("anon_vma_cachep", 8) or 0
    caches = values_at(found.caches.cache, found.places.cache)
    wrong = (caches == np.uint64(anon)) & (found.places.start == pages.mapping) & (pages.mapping != 0)
    return [
        f"{WRONG_MAPPING}: {mapping:#x}" if odd else (f"page {index:#x} of {text}" if text else "")
        for index, text, mapping, odd in zip(
            pages.index.tolist(), files, pages.mapping.tolist(), wrong.tolist(), strict=True
        )
    ]


def _anonymous(surroundings: Surroundings, pages: Pages) -> list[str]:
    """The address of the VMA that its anon_vma is linked to; there may be others, of processes that forked."""
    kernel = surroundings.kernel
    vmas = vmas_of_anon(surroundings, pages.anon_vmas())
    rows = read_vmas(kernel, vmas, ProblemLog())
    at = np.searchsorted(rows.vma, vmas)
    owners = owner_texts(surroundings, rows.mm[at])
    with np.errstate(over="ignore"):
        addresses = rows.start[at] + kernel.arch.bytes_of(pages.index - rows.anon_pgoff[at])
    inside = rows.ok[at] & (addresses >= rows.start[at]) & (addresses < rows.end[at])
    return [
        f"of {owner} at {address:#x}" if known else ""
        for owner, address, known in zip(owners, addresses.tolist(), inside.tolist(), strict=True)
    ]


def _root_frames(surroundings: Surroundings) -> U64:
    """Frames of the top-level page tables of processes."""
    kernel = surroundings.kernel
    roots, _ = kernel.gather_member("mm_struct", "pgd", _mms(surroundings))
    pas, _, mapped = kernel.space.translate(roots)
    return kernel.arch.pages(pas[mapped])


def _mms(surroundings: Surroundings) -> U64:
    """The address spaces that tasks use, or did last."""
    mms = distinct(np.concatenate([surroundings.tasks.mm, surroundings.tasks.active_mm]))
    found: U64 = mms[surroundings.kernel.arch.kernel_pointer(mms)]
    return found


def _tables(surroundings: Surroundings, pfns: U64) -> list[str]:
    """Whose page table it is, of which level, and for which addresses; "" where it is in no process's tree of them."""
    kernel, mms = surroundings.kernel, _mms(surroundings)
    sizes, _ = kernel.gather_member("mm_struct", "pgtables_bytes.counter?", mms)
    if float(sizes.sum(dtype=np.float64)) > _MOST_TABLES * kernel.arch.page_size:
        return [""] * len(pfns)
    roots, _ = kernel.gather_member("mm_struct", "pgd", mms)
    pas, _, mapped = kernel.space.translate(roots)
    tables = kernel.arch.walk_user(kernel.memory, pas[mapped]).tables
    tables = tables.sort_by(tables.pa)
    row = rows_of(tables.pa, kernel.arch.bytes_of(pfns))
    owners = owner_texts(surroundings, values_at(mms[mapped], values_at(tables.owner, row, -1)))
    last = tables.va + (kernel.arch.table_span(tables.level) - np.uint64(1))
    texts = [""] * len(pfns)
    for place, at in enumerate(row.tolist()):
        if at >= 0:
            span = f"{int(tables.va[at]):x}-{int(last[at]):x}"
            texts[place] = f"page table of level {int(tables.level[at])} for {span} of {owners[place]}"
    return texts
