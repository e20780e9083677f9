"""PT-ISOLATION on page tables made by hand."""

from __future__ import annotations

from checks.handmade_pages import add_page_tables
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.arch.page_tables import IsolatedEntries


def test_copies_that_agree_are_none() -> None:
    views = views_of(Process())
    assert findings(views, "PT-ISOLATION") == []
    add_page_tables(views)
    assert findings(views, "PT-ISOLATION") == []


def test_an_entry_of_the_users_copy_alone_is_found() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    view = add_page_tables(views)
    differing = IsolatedEntries.of(owner=[1], slot=[3], va=[3 << 39], entry=[0], user=[0x1067], where=[0x5018])
    object.__setattr__(view, "isolated", differing)
    (found,) = findings(views, "PT-ISOLATION")
    assert (found.mm, found.start, found.end) == (mm_of(101), 3 << 39, 4 << 39)
    (evidence,) = found.evidence
    assert (evidence.address, evidence.found, evidence.expected) == (0x5018, "0x1067", "0x0")
