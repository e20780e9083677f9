"""The user half of every process's page tables, and what each entry leads to.

All page tables are walked at once; ``struct page`` is read once per distinct frame. Encodings of entries
that are not present: arch/x86/include/asm/pgtable_64.h and pgtable-invert.h, include/linux/swapops.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space import paging
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.pages.isolation import differing_entries, span, walk_user_only
from vmaforensics.views.pages.mapped_pages import MappedPages, read_mapped_pages
from vmaforensics.views.pages.miscounted_frames import Claims, read_claims
from vmaforensics.views.pages.rss import read_rss
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

_PROTNONE = 1 << 8  # the global bit, of an entry that is not present
_SPECIAL = 1 << 9  # _PAGE_SPECIAL: raw page frames and the zero page, counted nowhere
_SWAP_TYPE_SHIFT = 59
_VA_PAGE_BITS = 45  # user addresses have at most 57 bits
_USER_SLOTS = 256
_MOST_CONTENTS = 4096  # orphans whose contents are looked at


class PteState(IntEnum):
    """What a leaf entry is."""

    PRESENT = 0
    PROTNONE = 1  # present for the kernel, not for the CPU: PROT_NONE and NUMA hinting
    SWAP = 2
    OTHER = 3  # migration, device-private, poisoned and marker entries


PTES = np.dtype(
    [
        ("mm_row", np.int32),  # row of views.mms
        ("level", np.int8),
        ("state", np.uint8),
        ("allow", np.uint8),  # paging.ALLOW_* over all levels
        ("special", np.bool_),
        ("va", np.uint64),
        ("entry", np.uint64),
        ("where", np.uint64),  # physical address of the entry
        ("pfn", np.uint64),  # first frame mapped; 0 if none
        ("page", np.int64),  # row of pages, -1 where the entry leads to no page with a struct page
        ("area", np.int64),  # row of areas, -1 where no area covers the address
    ]
)

AREAS = np.dtype(
    [("mm_row", np.int32), ("start", np.uint64), ("end", np.uint64), ("vma_row", np.int64), ("vma", np.uint64)]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTablesView:
    """What the page tables say.

    ``ptes`` (dtype ``PTES``) is sorted by mm and address. ``tables`` is ``paging.TABLES`` with ``owner``
    being the row of the mm; ``areas`` (dtype ``AREAS``) are the areas of all index views that entries were
    matched with, as their index bounds them. ``whole`` is per mm: every table could be read.
    ``repeated`` (as ``tables``): further places where a table of the same mm at the same level came up again; it was
    not entered there. ``isolated`` (dtype ``ISOLATED``): top-level entries that the user's copy of page-table
    isolation has differently. What hangs in that copy alone is in ``ptes`` and ``tables`` too.
    """

    ptes: NDArray[np.void]
    tables: NDArray[np.void]
    repeated: NDArray[np.void]
    areas: NDArray[np.void]
    pages: MappedPages
    page_root: NDArray[np.uint64]  # per row of pages: root of the anon_vma an anonymous page names
    vma_root: NDArray[np.uint64]  # per row of views.vmas: root of its anon_vma
    claims: Claims
    rss: NDArray[np.int64]  # stored counters, (mms, rss.KINDS), in pages
    rss_ok: NDArray[np.bool_]
    contents: list[str]  # per orphan: what the first bytes of its frame look like
    orphans: NDArray[np.int64]  # rows of ptes that no area covers
    whole: NDArray[np.bool_]
    isolated: NDArray[np.void]
    isolated_span: int  # bytes that an entry of a top-level table maps
    truncated: bool

    def entry_at(self, mm_row: NDArray[np.int32], va: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row of ``ptes`` that maps each address of each mm, -1 where none does."""
        if not len(self.ptes):
            return np.full(len(va), -1, np.int64)
        at = np.searchsorted(_key(self.ptes["mm_row"], self.ptes["va"]), _key(mm_row, va), "right") - 1
        row = np.maximum(at, 0)
        end = self.ptes["va"][row] + paging.span(self.ptes["level"][row])
        held = (at >= 0) & (self.ptes["mm_row"][row] == mm_row) & (va < end)
        return np.where(held, row, -1)

    def size(self, rows: NDArray[np.void]) -> NDArray[np.int64]:
        """Pages that each entry maps."""
        return (paging.span(rows["level"]) >> np.uint64(12)).astype(np.int64)


def gather_page_tables(kernel: Kernel, views: Views, log: ProblemLog) -> PageTablesView:
    """Walk the page tables of every mm and match every entry with an area and a page."""
    mms = views.mms
    pgd = np.where(mms["ok"], mms["pgd"], np.uint64(0))
    roots, _, mapped = kernel.space.translate(pgd)
    usable = mapped & kernel_pointer(pgd)
    rows = np.flatnonzero(usable)
    log.add(View.PAGE_TABLES, Problem.UNREADABLE, mms["mm"][~usable], pgd[~usable])
    found = paging.walk(
        kernel.memory,
        roots[rows],
        levels=kernel.identity.levels,
        last=_USER_SLOTS,
        mask=kernel.pte_mask,
        everything=True,
    )
    for table in (found.leaves, found.tables, found.repeated):
        table["owner"] = rows[table["owner"]]
    isolated = differing_entries(kernel, roots, usable)
    beside = walk_user_only(kernel, roots, isolated)
    tables, leaves, repeated = (
        np.concatenate([getattr(found, name), getattr(beside, name)]) if len(beside.tables) else getattr(found, name)
        for name in ("tables", "leaves", "repeated")
    )
    lost = tables[~tables["ok"]]
    log.add(View.PAGE_TABLES, Problem.UNREADABLE, mms["mm"][lost["owner"]], lost["pa"], lost["va"])
    whole = usable.copy()
    whole[lost["owner"]] = False
    truncated = found.truncated or beside.truncated
    if truncated:
        log.add(View.PAGE_TABLES, Problem.CUT_SHORT, 0, 0)
        whole[:] = False
    ptes = _decode(kernel, leaves)
    areas = _areas(views)
    ptes["area"] = covering(areas, ptes["mm_row"], ptes["va"])
    leads = (ptes["state"] <= PteState.PROTNONE) & ~ptes["special"]
    pages, ptes["page"][leads] = read_mapped_pages(kernel, ptes["pfn"][leads])
    # A huge page that names nobody is the huge zero page, or raw memory of a device; neither is counted.
    if len(pages.rows):
        page = pages.rows
        nobody = (page["mapping"] == 0) & ~page["anon"] & ~page["hugetlb"] & page["ok"]
        ptes["special"] |= leads & (ptes["level"] == 2) & nobody[ptes["page"]]
        ptes["page"][ptes["special"]] = -1
    page_root, vma_root = _roots(kernel, views, pages.rows)
    rss, rss_ok = read_rss(kernel, views, log.met(View.TASKS))
    orphans = np.flatnonzero(ptes["area"] < 0)
    return PageTablesView(
        page_root=page_root,
        vma_root=vma_root,
        claims=read_claims(kernel, ptes),
        rss=rss,
        rss_ok=rss_ok,
        orphans=orphans,
        contents=_contents(kernel, ptes[orphans[:_MOST_CONTENTS]]),
        ptes=ptes,
        tables=tables,
        repeated=repeated,
        areas=areas,
        pages=pages,
        whole=whole,
        isolated=isolated,
        isolated_span=span(kernel),
        truncated=truncated,
    )


def _roots(kernel: Kernel, views: Views, pages: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Root of the anon_vma of every anonymous page and of every VMA; 0 where there is none."""
    named = np.where(pages["anon"] & ~pages["ksm"] & pages["ok"], pages["mapping"], np.uint64(0))
    both = np.concatenate([named, views.vmas["anon_vma"]])
    known, inverse = np.unique(both, return_inverse=True)
    got, ok = kernel.gather("anon_vma", known, ["root"])
    root = np.where(ok & (known != 0), got["root"], np.uint64(0))[inverse]
    return root[: len(named)], root[len(named) :]


def _contents(kernel: Kernel, ptes: NDArray[np.void]) -> list[str]:
    """What each frame begins with, in a word; only asked of memory that no area accounts for."""
    leads = (ptes["state"] == PteState.PRESENT) & ~ptes["special"]
    data, ok = kernel.memory.gather(ptes["pfn"] << np.uint64(12), 4096)
    return [
        content_class(row.tobytes()) if fine and led else "" if led else "no page"
        for row, fine, led in zip(data, ok.tolist(), leads.tolist(), strict=True)
    ]


def content_class(page: bytes) -> str:
    """What the contents of a page look like: ELF, script, zeros, text or data."""
    if page.startswith(b"\x7fELF"):
        return "an ELF header"
    if page.startswith(b"#!"):
        return "a script"
    if not page.strip(b"\0"):
        return "zeros"
    text = page.rstrip(b"\0")
    printable = sum(32 <= octet < 127 or octet in b"\t\n\r" for octet in text)
    return "text" if printable == len(text) else "data"


def _decode(kernel: Kernel, leaves: NDArray[np.void]) -> NDArray[np.void]:
    ptes = np.zeros(len(leaves), PTES)
    ptes["mm_row"] = leaves["owner"]
    ptes["page"] = -1
    for name in ("level", "allow", "va", "entry", "where"):
        ptes[name] = leaves[name]
    entry = leaves["entry"]
    present = (entry & np.uint64(paging.PRESENT)) != 0
    none = ~present & ((entry & np.uint64(_PROTNONE)) != 0)
    swapped = ~present & ~none & ((entry >> np.uint64(_SWAP_TYPE_SHIFT)) < np.uint64(_swap_types(kernel)))
    ptes["state"] = np.select(
        [present, none, swapped], [PteState.PRESENT, PteState.PROTNONE, PteState.SWAP], PteState.OTHER
    )
    # L1TF: an entry that is not present holds its address inverted (protnone_mask).
    upright = np.where(none, ~entry, entry)
    pfn = paging.target(upright, leaves["level"], kernel.pte_mask) >> np.uint64(12)
    ptes["pfn"] = np.where(present | none, pfn, np.uint64(0))
    ptes["special"] = (present | none) & ((entry & np.uint64(_SPECIAL)) != 0)
    zero = _huge_zero(kernel)
    if zero is not None:
        ptes["special"] |= (ptes["level"] == 2) & (ptes["pfn"] == np.uint64(zero)) & (present | none)
    # The walk gives the entries of each level in this order; a stable sort merges such runs quickly.
    return ptes[np.argsort(_key(ptes["mm_row"], ptes["va"]), kind="stable")]


def _swap_types(kernel: Kernel) -> int:
    """Swap files there are or were; the types above them are migration, device and marker entries."""
    at = kernel.symbols.get("nr_swapfiles")
    if at is None:
        return 23  # the least MAX_SWAPFILES of any configuration
    data, ok = kernel.space.gather(np.array([at], np.uint64), 4)
    return min(int(data.view("<u4")[0, 0]), 32) if ok[0] else 23


def _huge_zero(kernel: Kernel) -> int | None:
    """Frame of the huge zero page, which is mapped without being counted."""
    at = kernel.symbols.get("huge_zero_pfn")
    if at is None:
        return None
    words, ok = kernel.words(np.array([at], np.uint64), 1)
    return int(words[0, 0]) if ok[0] else None


def _areas(views: Views) -> NDArray[np.void]:
    rows = views.union[views.union["end"] > views.union["start"]]  # a torn index may hold ranges that are none
    areas = np.zeros(len(rows), AREAS)
    areas["mm_row"] = views.mm_rows(rows["mm"])
    areas["start"], areas["end"], areas["vma"] = rows["start"], rows["end"], rows["vma"]
    areas["vma_row"] = rows["vma_row"]
    return areas[np.lexsort((areas["start"], areas["mm_row"]))]


def covering(areas: NDArray[np.void], mm_row: NDArray[np.int32], va: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Row of ``areas`` that covers each address of each mm, -1 where none does."""
    if not len(areas):
        return np.full(len(va), -1, np.int64)
    at = np.searchsorted(_key(areas["mm_row"], areas["start"]), _key(mm_row, va), "right") - 1
    row = np.maximum(at, 0)
    held = (at >= 0) & (areas["mm_row"][row] == mm_row) & (va < areas["end"][row])
    return np.where(held, row, -1)


def area_before(areas: NDArray[np.void], mm_row: NDArray[np.int32], va: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Where the last area of each mm that begins at or below each address ends; 0 for none."""
    if not len(areas):
        return np.zeros(len(va), np.uint64)
    at = np.searchsorted(_key(areas["mm_row"], areas["start"]), _key(mm_row, va), "right") - 1
    row = np.maximum(at, 0)
    answer: NDArray[np.uint64] = np.where((at >= 0) & (areas["mm_row"][row] == mm_row), areas["end"][row], np.uint64(0))
    return answer


def _key(mm_row: NDArray[np.int32], va: NDArray[np.uint64]) -> NDArray[np.uint64]:
    page = np.minimum(va >> np.uint64(12), np.uint64((1 << _VA_PAGE_BITS) - 1))
    key: NDArray[np.uint64] = mm_row.astype(np.uint64) << np.uint64(_VA_PAGE_BITS) | page
    return key
