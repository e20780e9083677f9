"""PTE-PERM on page tables made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from checks.handmade_pages import add_page_tables, entry_row
from checks.handmade_views import Process, findings, mm_of, views_of, vma_row
from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE, PteState

_TEXT, _STACK = 0x400000, 0x7F0000


@pytest.mark.parametrize(
    ("va", "bit", "said"),
    [
        (_STACK, ALLOW_EXECUTE, "can be executed, though its VMA is not executable"),
        (_TEXT, ALLOW_EXECUTE, "cannot be executed, though its VMA is executable"),
        (_TEXT, ALLOW_WRITE, "can be written, though its VMA is not writable"),
        (_TEXT, ALLOW_USER, "is mapped for the kernel only"),
    ],
)
def test_another_right_than_the_vma_gives_is_found(va: int, bit: int, said: str) -> None:
    views = views_of(Process(pid=100), Process(pid=101, vmas=("500000-501000 r--p /etc/passwd",)))
    view = add_page_tables(views)
    assert findings(views, "PTE-PERM") == []
    view.ptes.allow[entry_row(views, va)] ^= bit
    (found,) = findings(views, "PTE-PERM")
    assert (found.mm, found.start, found.end) == (mm_of(100), va, va + 0x1000)
    assert said in found.title


def test_a_page_that_is_not_writable_yet_is_copy_on_write() -> None:
    views = views_of(Process())
    view = add_page_tables(views)
    view.ptes.allow[entry_row(views, _STACK)] ^= ALLOW_WRITE
    assert findings(views, "PTE-PERM") == []


def test_an_entry_that_the_cpu_cannot_use_has_no_rights() -> None:
    views = views_of(Process())
    view = add_page_tables(views)
    view.ptes.allow[entry_row(views, _TEXT)] = 0
    view.ptes.state[entry_row(views, _TEXT)] = PteState.PROTNONE
    assert findings(views, "PTE-PERM") == []


def test_a_vma_that_was_not_read_is_not_held_against_its_entries() -> None:
    views = views_of(Process())
    add_page_tables(views)
    row = vma_row(views, _TEXT)
    views.vmas.ok[row], views.vmas.flags[row] = False, 0
    assert findings(views, "PTE-PERM") == []


@pytest.mark.parametrize("how", ["of another", "elsewhere"])
def test_a_vma_that_only_a_torn_index_leads_to_is_not_held_against_entries(how: str) -> None:
    views = views_of(Process())
    add_page_tables(views)
    row = vma_row(views, _TEXT)
    views.vmas.flags[row] = 0
    if how == "elsewhere":
        views.vmas.start[row] += np.uint64(0x100000)
        views.vmas.end[row] += np.uint64(0x100000)
    else:
        views.vmas.mm[row] += np.uint64(0x1000)
    assert findings(views, "PTE-PERM") == []
