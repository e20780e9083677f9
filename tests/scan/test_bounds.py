"""What a scan makes of huge entries that map more than there is, and of matches in pages that are not there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from handmade import Machine

from vmaforensics.arch.page_tables import PteState
from vmaforensics.scan.places import PlaceKind, taskless_pages
from vmaforensics.scan.plan import PlanPages, Stretches
from vmaforensics.scan.scan import Request, _Collector
from vmaforensics.scan.worker import Hit, RuleHits, Scanned
from vmaforensics.views.pages.entries import KeptEntries
from vmaforensics.views.pages.ptes import Ptes

GIBIBYTE = 1 << 18  # pages


def test_huge_entries_are_taken_as_far_as_the_image_could_be_shared() -> None:
    """A page table of 512 entries of 1 GiB in a machine of 64 pages, and an entry of one page."""
    kernel = Machine().kernel()
    ptes = Ptes.of(513, level=[3] * 512 + [1], state=[PteState.PRESENT] * 513, pfn=range(513))
    ptes.va[:] = np.arange(513, dtype=np.uint64) << np.uint64(30)
    views = cast("Any", SimpleNamespace(page_tables=SimpleNamespace(taskless=KeptEntries(kernel.arch, ptes))))
    assert taskless_pages(kernel, views).pfn.tolist() == [512]


@pytest.mark.parametrize(("offset", "physical"), [(100, 0x64), (4096 + 8, None), (2 * 4096 - 2, 0x2000)])
def test_a_match_lies_where_its_first_byte_that_is_there_lies(offset: int, physical: int | None) -> None:
    """Of three pages that were scanned the second is not in the image."""
    names = SimpleNamespace(owners=lambda pfn, inside: ((), 0), place=lambda *_: "free frames", pid=lambda *_: None)
    pages = PlanPages.of(pfn=[0, 0, 2], held=[True, False, True])
    stretches = Stretches.of(first=[0], count=[3], kind=[PlaceKind.FREE], owner=[0])
    collector = _Collector(Machine().kernel(), cast("Any", names), [])
    collector.plan(stretches, pages, 0)
    hit = Hit(pattern="$a", offset=offset, length=4, data=bytes(4))
    found = RuleHits(namespace="default", rule="zeros", tags=(), meta=(), hits=[hit])
    collector.take(Scanned(stretch=0, rules=[found]), strings=False)
    told = [match.physical for finding in collector.part(Request()).findings for match in finding.matches]
    assert told == ([] if physical is None else [hex(physical)])
