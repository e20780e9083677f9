"""The code and data that the kernel maps into every process, and what processes have in their place.

``special_mapping_fault`` and ``vdso_fault`` (arch/x86/entry/vdso/vma.c) put in the pages of the image that
``mm->context.vdso_image`` names; ``vvar_fault`` (since 6.15 lib/vdso/datastore.c) those of the clocks, or in a time
namespace that namespace's. A debugger's write makes a private copy of a page of code, as in any private mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import distinct, values_at
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, I64, U64, Bools
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.pages.text_pages import traced_mms
from vmaforensics.views.pages.vdso_images import ImagesView, read_vdso_images
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.vmas.vmas import Vmas

_MOST = 4096  # pages whose contents are compared


@table()
class VdsoPages(Table):
    """A row is a present page of such code or data that is not the kernel's own, in the order of page-table entries."""

    pte_row: I64
    vma_row: I64
    mm_row: I64
    va: U64
    page_row: I32 = column(fill=-1)
    pfn: U64
    expected: U64  # frame of the kernel's own page; 0 if there is none, or for data several would do
    code: Bools
    copy: Bools  # a private copy, as a write by a debugger makes it
    differing: I64  # bytes unlike those of the kernel's page; -1 where either is not in the image
    breakpoints: Bools  # all of them are breakpoints
    traced: Bools  # some thread has a tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class VdsoView:
    """Who has which of these, where. ``areas`` are all VMAs that say they are such code."""

    images: ImagesView
    image: U64  # of each of Views.mms: mm->context.vdso_image
    image_row: I64  # row of ``images`` that it is, -1 for none
    image_at: int  # offset of that word in mm_struct
    code: Bools  # which rows of Views.vmas are VMAs with such code
    pages: VdsoPages
    judged: int  # pages that were looked at


def gather_vdso(kernel: Kernel, tasks: Tasks, mms: Mms, vmas: Vmas, view: PageTablesView) -> VdsoView | None:
    """Hold what processes have there against the kernel's own; None where the kernel has no symbols of it."""
    names = kernel.arch.vdso_symbols
    code_mappings, data_mappings = _addresses(kernel, names.code), _addresses(kernel, names.data)
    if not len(code_mappings) or not kernel.has("mm_struct", "context.vdso_image"):
        return None
    images = read_vdso_images(kernel)
    if not len(images.images):
        return None
    image, _ = kernel.gather_member("mm_struct", "context.vdso_image", mms.mm)
    image_row = images.rows_of(image)
    special = vmas.kind == Kind.SPECIAL
    code, data = special & np.isin(vmas.private, code_mappings), special & np.isin(vmas.private, data_mappings)
    found = _present(view, vmas, code | data)
    found.code[:] = code[found.vma_row]
    offset = found.va - vmas.start[found.vma_row]
    own = _own_frames(kernel, images, image_row[found.mm_row], offset)
    found.expected[:] = np.where(found.code & own.known, own.frames, np.uint64(0))
    other = _data_frames(kernel)
    own_data = np.isin(found.pfn, other.frames) | _in_place(kernel, found, offset)
    right = np.where(found.code, found.expected == found.pfn, own_data)
    judged = np.where(found.code, own.known, other.known.all())
    wrong = found.take(~right & judged)
    if (~wrong.code).any():
        spaces = _time_namespaces(kernel, tasks)
        wrong = wrong.take(wrong.code | (~np.isin(wrong.pfn, spaces.frames) & spaces.known.all()))
    _find_copies(view, vmas, wrong)
    _compare(kernel, wrong)
    wrong.traced[:] = np.isin(mms.mm[wrong.mm_row], traced_mms(kernel, tasks))
    return VdsoView(
        images=images,
        image=image,
        image_row=image_row,
        image_at=kernel.offset("mm_struct", "context.vdso_image"),
        code=code,
        pages=wrong,
        judged=len(found),
    )


def _addresses(kernel: Kernel, names: tuple[str, ...]) -> U64:
    return np.array([at for name in names if (at := kernel.symbols.get(name)) is not None], np.uint64)


def _present(view: PageTablesView, vmas: Vmas, wanted: Bools) -> VdsoPages:
    """A row for each present entry in the ``wanted`` VMAs."""
    rows, ptes = view.in_ranges(values_at(wanted, view.ranges.vma_row))
    present = ptes.state == PteState.PRESENT
    rows, ptes = rows[present], ptes.take(present)
    return VdsoPages.of(
        len(rows),
        pte_row=rows,
        vma_row=view.ranges.vma_row[ptes.range_row],
        mm_row=ptes.mm_row,
        va=ptes.va,
        page_row=ptes.page_row,
        pfn=ptes.pfn,
        differing=np.full(len(rows), -1),
    )


class _Frames(NamedTuple):
    """Frames, and whether it is known that they are these: for each of them, or for all in one."""

    frames: U64
    known: Bools


def _own_frames(kernel: Kernel, images: ImagesView, image_row: I64, offset: U64) -> _Frames:
    """Frame of the page at ``offset`` bytes in each image; 0 behind its end."""
    within = offset < values_at(images.images.size, image_row)
    with np.errstate(over="ignore"):
        pa, _, mapped = kernel.space.translate(values_at(images.images.data, image_row) + offset)
    known = (image_row >= 0) & values_at(images.images.ok, image_row) & (mapped | ~within)
    return _Frames(np.where(within & mapped, kernel.arch.pages(pa), np.uint64(0)), known)


def _data_frames(kernel: Kernel) -> _Frames:
    """The frames of the kernel's own data pages; known if every pointer to one could be followed."""
    names = kernel.arch.vdso_symbols
    words, ok = kernel.words(_addresses(kernel, names.pointers), 1)
    addresses = np.concatenate([_addresses(kernel, names.pages), words[ok & (words[:, 0] != 0), 0]])
    pa, _, mapped = kernel.space.translate(addresses)
    return _Frames(distinct(kernel.arch.pages(pa[mapped])), np.array([ok.all() and mapped.all() and len(pa) > 0]))


def _in_place(kernel: Kernel, rows: VdsoPages, offset: U64) -> Bools:
    """Which are the page of the kernel's data that belongs at that ``offset`` of the VMA, whatever lies in it: mlockall
    maps those too that nobody reads (vvar_fault, lib/vdso/datastore.c)."""
    words, ok = kernel.words(_addresses(kernel, kernel.arch.vdso_symbols.structs), 1)
    first, plausible = PageReader(kernel).frames_of(words[ok, 0])
    place = rows.pfn[:, None] - first[plausible]
    found: Bools = (place == kernel.arch.pages(offset)[:, None]).any(axis=1)
    return found


def _time_namespaces(kernel: Kernel, tasks: Tasks) -> _Frames:
    """The frames of the data pages that time namespaces have instead (timens_setup_vdso_data)."""
    none = np.zeros(0, np.uint64)
    if not kernel.has("nsproxy", "time_ns") or not kernel.has("time_namespace", "vvar_page"):
        return _Frames(none, np.ones(1, np.bool_))
    at, known = tasks.task, np.ones(1, np.bool_)
    for struct, member in (("task_struct", "nsproxy"), ("nsproxy", "time_ns"), ("time_namespace", "vvar_page")):
        values, ok = kernel.gather_member(struct, member, at)
        known &= ok.all()
        at = distinct(values[ok & (values != 0)])
    frames, plausible = PageReader(kernel).frames_of(at)
    return _Frames(frames[plausible], known)


def _find_copies(view: PageTablesView, vmas: Vmas, rows: VdsoPages) -> None:
    """Which are anonymous pages of the VMA's own anon_vma, at their place: what a write leaves."""
    pages = view.pages.take_or_fill(rows.page_row)
    root = view.anon_roots.roots_of(vmas.anon_vma[rows.vma_row])
    own = pages.ok & pages.anon & (root != 0) & (view.anon_roots.roots_of(pages.anon_vmas()) == root)
    offset = view.arch.pages(rows.va - vmas.start[rows.vma_row])
    rows.copy[:] = rows.code & own & (pages.index == vmas.anon_pgoff[rows.vma_row] + offset)


def _compare(kernel: Kernel, rows: VdsoPages) -> None:
    """How the first :data:`_MOST` pages of code differ from the kernel's own."""
    at = np.flatnonzero(rows.code & (rows.expected != 0))[:_MOST]
    size = kernel.arch.page_size
    now, ok = kernel.memory.gather(kernel.arch.bytes_of(rows.pfn[at]), size)
    was, held = kernel.memory.gather(kernel.arch.bytes_of(rows.expected[at]), size)
    differs = now != was
    known = ok & held
    rows.differing[at[known]] = differs.sum(axis=1)[known]
    rows.breakpoints[at] = known & (~differs | kernel.arch.breakpoints(now)).all(axis=1)
