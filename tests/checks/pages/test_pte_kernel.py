"""PTE-KERNEL on page tables made by hand."""

from __future__ import annotations

import numpy as np

from checks.handmade_pages import add_page_tables, page_row
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.rule import Severity
from vmaforensics.views.vmas.flags import VM_PFNMAP

_STACK = 0x7F0000


def test_a_slab_page_in_user_memory_is_critical() -> None:
    views = views_of(Process(pid=100))
    view = add_page_tables(views)
    assert findings(views, "PTE-KERNEL") == []
    view.pages.kernel_own[page_row(views, _STACK)] = True
    (found,) = findings(views, "PTE-KERNEL")
    assert (found.mm, found.start, found.severity) == (mm_of(100), _STACK, Severity.CRITICAL)
    assert findings(views, "PTE-REMAP") == []


def test_a_page_that_was_not_read_says_nothing() -> None:
    views = views_of(Process())
    view = add_page_tables(views)
    view.pages.kernel_own[page_row(views, _STACK)] = True
    view.pages.ok[page_row(views, _STACK)] = False
    assert findings(views, "PTE-KERNEL") == []


def test_a_page_that_nobody_holds_is_anybody_s() -> None:
    views = views_of(Process(pid=100))
    view = add_page_tables(views)
    view.pages.refcount[page_row(views, _STACK)] = 0
    (found,) = findings(views, "PTE-KERNEL")
    assert (found.mm, found.start) == (mm_of(100), _STACK)
    assert "a page that nobody holds" in found.title


def test_drivers_map_parts_of_pages_that_are_counted_as_one() -> None:
    views = views_of(Process(pid=100))
    view = add_page_tables(views)
    view.pages.refcount[page_row(views, _STACK)] = 0
    views.vmas.flags[views.vmas.start <= _STACK] |= np.uint64(VM_PFNMAP)
    assert findings(views, "PTE-KERNEL") == []
