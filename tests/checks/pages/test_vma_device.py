"""VMA-DEVICE and PTE-SPECIAL on page tables made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_pages import add_page_tables, entry_row, page_row
from checks.handmade_views import Process, findings, mm_of, views_of, vma_row
from vmaforensics.checks.finding import Severity
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

HEAP, DEVICE = 0x600000, 0x700000
VMAS = (
    "400000-402000 r-xp /bin/cat",
    "600000-604000 rw-p",
    "700000-702000 rw-s /dev/gpu",
    "7f0000000-7f0004000 rw-p [stack]",
)
MAPS_RAW = flags.VM_PFNMAP | flags.VM_IO


def _views() -> Views:
    """A process with a heap and a VMA of a device, whose page is marked as a raw page frame."""
    views = views_of(Process(pid=100, vmas=VMAS))
    add_page_tables(views)
    row = vma_row(views, DEVICE)
    views.vmas.flags[row] |= np.uint64(MAPS_RAW | flags.VM_MAYSHARE)
    views.vmas.kind[row] = Kind.DEVICE
    _mark(views, DEVICE)
    return views


def _mark(views: Views, va: int) -> None:
    """Mark an entry as that of a raw page frame."""
    assert views.page_tables is not None
    row = entry_row(views, va)
    views.page_tables.ptes.special[row] = True
    views.page_tables.ptes.page_row[row] = -1
    view = views.page_tables
    object.__setattr__(view, "raw_ram", np.append(view.raw_ram, row))


def test_a_device_and_ordinary_memory_are_none() -> None:
    assert findings(_views(), "VMA-DEVICE") == []
    assert findings(_views(), "PTE-SPECIAL") == []
    assert findings(views_of(Process(vmas=VMAS)), "VMA-DEVICE") == []
    assert findings(views_of(Process(vmas=VMAS)), "PTE-SPECIAL") == []


@pytest.mark.parametrize("bits", [flags.VM_PFNMAP, flags.VM_IO, flags.VM_MIXEDMAP])
def test_such_flags_on_memory_without_a_file_are_found(bits: int) -> None:
    views = _views()
    views.vmas.flags[vma_row(views, HEAP)] |= np.uint64(bits)
    (found,) = findings(views, "VMA-DEVICE")
    assert (found.mm, found.start, found.end, found.severity) == (mm_of(100), HEAP, HEAP + 0x4000, Severity.HIGH)
    assert "1 entry, 0 marked as raw page frames, 1 of anonymous pages, 0 executable" in found.evidence[1].what


@pytest.mark.parametrize(("locked", "at_once"), [(0, True), (flags.VM_LOCKED, False)])
def test_whether_mlock_was_at_it_the_page_of_the_vma_does_not_say(locked: int, *, at_once: bool) -> None:
    """mlock_vma_pages_range (mm/mlock.c) holds the mmap lock, which lies elsewhere."""
    views = _views()
    views.vmas.flags[vma_row(views, HEAP)] |= np.uint64(flags.VM_IO | locked)
    (found,) = findings(views, "VMA-DEVICE")
    assert found.at_once is at_once


def test_special_mappings_of_the_kernel_are_none() -> None:
    views = _views()
    row = vma_row(views, HEAP)
    views.vmas.flags[row] |= np.uint64(MAPS_RAW)
    views.vmas.kind[row] = Kind.SPECIAL
    assert findings(views, "VMA-DEVICE") == []


def _device_maps(views: Views, *, anon: bool) -> None:
    assert views.page_tables is not None
    row = entry_row(views, DEVICE)
    views.page_tables.ptes.special[row] = False
    views.page_tables.ptes.page_row[row] = page_row(views, HEAP)
    if not anon:
        views.page_tables.pages.anon[page_row(views, HEAP)] = False


def test_an_anonymous_page_in_a_shared_device_is_found() -> None:
    views = _views()
    _device_maps(views, anon=True)
    (found,) = findings(views, "VMA-DEVICE")
    assert (found.start, found.end) == (DEVICE, DEVICE + 0x1000)
    assert "is an anonymous page" in found.title


def test_a_page_without_the_mark_is_found_where_all_are_raw() -> None:
    views = _views()
    _device_maps(views, anon=False)
    (found,) = findings(views, "VMA-DEVICE")
    assert "not marked as a raw page frame" in found.title
    row = vma_row(views, DEVICE)  # vm_insert_page maps pages that are counted
    views.vmas.flags[row] ^= np.uint64(flags.VM_PFNMAP | flags.VM_MIXEDMAP)
    assert findings(views, "VMA-DEVICE") == []


def test_private_copies_of_a_device_are_none() -> None:
    views = _views()
    _device_maps(views, anon=True)
    row = vma_row(views, DEVICE)
    views.vmas.flags[row] ^= np.uint64(flags.VM_SHARED | flags.VM_MAYSHARE | flags.VM_MAYWRITE)
    views.vmas.anon_vma[row] = views.vmas.anon_vma[vma_row(views, HEAP)]
    assert findings(views, "VMA-DEVICE") == []


def test_a_mark_in_ordinary_memory_is_found() -> None:
    views = _views()
    _mark(views, HEAP)
    (found,) = findings(views, "PTE-SPECIAL")
    assert (found.mm, found.start, found.end) == (mm_of(100), HEAP, HEAP + 0x1000)


def test_pages_of_a_regular_file_are_no_device_s() -> None:
    views = _views()
    row = vma_row(views, 0x400000)
    views.vmas.flags[row] |= np.uint64(flags.VM_IO)
    views.vmas.kind[row] = Kind.DEVICE
    (found,) = findings(views, "VMA-DEVICE")
    assert (found.mm, found.start) == (mm_of(100), 0x400000)
    assert "a page of its file, which is a regular one" in found.title
    assert views.files is not None
    views.files.rows.regular[views.vmas.file_row[row]] = False
    assert findings(views, "VMA-DEVICE") == []


@pytest.mark.parametrize(
    ("bits", "by_mlock"),
    [(flags.VM_LOCKED | flags.VM_IO, True), (flags.VM_IO, False), (flags.VM_LOCKED | MAPS_RAW, False)],
)
@pytest.mark.parametrize("start", [HEAP, 0x400000])
def test_mlock_has_the_flag_of_a_device_while_it_looks_at_pages(start: int, bits: int, *, by_mlock: bool) -> None:
    """mlock_vma_pages_range (mm/mlock.c): VM_LOCKED and VM_IO together keep others from counting the pages."""
    views = _views()
    row = vma_row(views, start)
    views.vmas.flags[row] |= np.uint64(bits)
    views.vmas.kind[row] = Kind.DEVICE
    (found,) = findings(views, "VMA-DEVICE")
    changed_by = found.rule.changed_by if found.changed_by is None else found.changed_by
    assert (Operation.PROTECT in changed_by) is by_mlock
