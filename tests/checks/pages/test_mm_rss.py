"""MM-RSS on page tables made by hand."""

from __future__ import annotations

import pytest

from checks.handmade_pages import Entry, add_page_tables, entry_row, page_row
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.arch.page_tables import PteState
from vmaforensics.views.pages.rss import KINDS

_STACK = 0x7F0000


def test_counters_that_are_right_are_none() -> None:
    views = views_of(Process(pid=100, vmas=("400000-401000 r-xp /bin/cat", "500000-501000 rw-s /memfd:x")))
    add_page_tables(views, Entry(pid=100, va=0x10000, pfn=0x99, state=PteState.SWAP))
    assert findings(views, "MM-RSS") == []


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_counter_that_is_off_is_named(kind: int) -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    view = add_page_tables(views)
    view.rss[1, kind] += 1
    (found,) = findings(views, "MM-RSS")
    assert found.mm == mm_of(101)
    assert KINDS[kind] in found.title
    assert int(found.evidence[0].found) == int(found.evidence[0].expected) + 1


def test_a_huge_page_counts_as_all_its_pages() -> None:
    views = views_of(Process(vmas=("40000000-40200000 rw-p",)))
    view = add_page_tables(views)
    view.ptes.level[:] = 2
    view.rss[0, KINDS.index("MM_ANONPAGES")] = 512
    assert findings(views, "MM-RSS") == []


def test_what_cannot_be_counted_makes_it_silent() -> None:
    for broken in range(4):
        views = views_of(Process())
        view = add_page_tables(views)
        view.rss[0, 0] += 1
        assert len(findings(views, "MM-RSS")) == 1
        if broken == 0:
            view.whole[0] = False
        elif broken == 1:
            view.rss_ok[0] = False
        elif broken == 2:
            view.ptes.state[entry_row(views, _STACK)] = PteState.OTHER
        else:
            view.pages.ok[page_row(views, _STACK)] = False
        assert findings(views, "MM-RSS") == []
