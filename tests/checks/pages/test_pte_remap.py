"""PTE-REMAP on page tables made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from checks.handmade_pages import ANON_VMAS, add_page_tables, page_row
from checks.handmade_views import Process, findings, mm_of, views_of

if TYPE_CHECKING:
    from vmaforensics.views.pages.mapped_pages import Pages

_TEXT, _STACK = 0x400000, 0x7F0000


def _other_anon_vma(pages: Pages, row: int) -> None:
    pages.mapping[row] += 256 * 7


def _other_address(pages: Pages, row: int) -> None:
    pages.index[row] += 1


def _of_a_file(pages: Pages, row: int) -> None:
    pages.anon[row] = False


@pytest.mark.parametrize(
    ("va", "change", "said"),
    [
        (_STACK, _other_anon_vma, "an anonymous page of another anon_vma"),
        (_STACK, _other_address, "an anonymous page that belongs at another address"),
        (_STACK, _of_a_file, "a page that is not anonymous, in an anonymous VMA"),
        (_TEXT, _other_anon_vma, "a page of another file than its VMA maps"),
        (_TEXT, _other_address, "a page from another place of the file"),
    ],
)
def test_a_page_that_names_another_place_is_found(va: int, change: object, said: str) -> None:
    views = views_of(Process(pid=100))
    view = add_page_tables(views)
    assert findings(views, "PTE-REMAP") == []
    assert callable(change)
    change(view.pages, page_row(views, va))
    (found,) = findings(views, "PTE-REMAP")
    assert (found.mm, found.start, found.end) == (mm_of(100), va, va + 0x1000)
    assert said in found.title


def test_pages_of_one_family_of_anon_vmas_are_at_home() -> None:
    """After a fork a page names the parent's anon_vma, which has the same root."""
    views = views_of(Process())
    view = add_page_tables(views)
    roots = view.anon_roots
    first = int(views.vmas.anon_vma[1])
    wider = type(roots).of(2, anon_vma=[ANON_VMAS, first], root=[first, first])
    object.__setattr__(view, "anon_roots", wider)
    view.pages.mapping[page_row(views, _STACK)] = ANON_VMAS
    assert findings(views, "PTE-REMAP") == []


@pytest.mark.parametrize("column", ["ksm", "ok"])
def test_a_merged_or_unread_page_says_nothing(column: str) -> None:
    views = views_of(Process())
    view = add_page_tables(views)
    row = page_row(views, _STACK)
    view.pages.index[row] += 1
    values = view.pages.ksm if column == "ksm" else view.pages.ok
    values[row] = column == "ksm"
    assert findings(views, "PTE-REMAP") == []
