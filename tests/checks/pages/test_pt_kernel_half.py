"""PT-KERNEL-HALF, PT-KERNEL-OPEN and PT-DIRECT-MAP on tables made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE, KernelEntries
from vmaforensics.checks.finding import Severity
from vmaforensics.views.pages.kernel_half import KernelHalfView, KernelLeaves

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

SLOT = 386
START = (-1 << 48) % (1 << 64) | SLOT << 39
SPAN = 1 << 39
RULES = ("PT-KERNEL-HALF", "PT-KERNEL-OPEN", "PT-DIRECT-MAP")


def _entries(*owners: int, own: bool = False, entry: int = 0x9067) -> KernelEntries:
    count = len(owners)
    return KernelEntries.of(
        count,
        owner=owners,
        slot=[SLOT] * count,
        va=[START] * count,
        entry=[entry] * count,
        expected=[0] * count,
        where=[0x5000 * (owner + 1) + 8 * SLOT for owner in owners],
        user_copy=[False] * count,
        own=[own] * count,
    )


def _leaf(owner: int, allow: int, va: int = START + 0x3000) -> KernelLeaves:
    return KernelLeaves.of(
        1, owner=[owner], va=[va], level=[1], allow=[allow], entry=[0x77067], where=[0x8018], target=[0x77000]
    )


def _views(**changes: object) -> Views:
    views = views_of(*(Process(pid=pid) for pid in (100, 101, 102, 103)))
    view = KernelHalfView(
        entries=KernelEntries.zeros(0),
        mm=views.mms.mm,
        pid=views.mms.pid,
        alike=np.full(4, 70, np.int64),
        expected=70,
        span=SPAN,
        leaves=KernelLeaves.zeros(0),
        contents=[],
        open_leaves=KernelLeaves.zeros(0),
        open_contents=[],
        moved=KernelLeaves.zeros(0),
        truncated=False,
    )
    views.kernel_half = replace(view, **changes)  # type: ignore[arg-type]
    return views


def test_a_half_that_is_the_kernels_is_none() -> None:
    assert [found for rule in RULES for found in findings(_views(), rule)] == []
    assert [found for rule in RULES for found in findings(views_of(Process()), rule)] == []


def test_an_entry_of_one_process_is_found_with_the_pages_it_maps() -> None:
    leaf = _leaf(0, ALLOW_USER | ALLOW_WRITE | ALLOW_EXECUTE)
    (found,) = findings(_views(entries=_entries(1), leaves=leaf, contents=["data"]), "PT-KERNEL-HALF")
    assert (found.mm, found.pid, found.severity) == (mm_of(101), 101, Severity.HIGH)
    assert (found.start, found.end) == (START + 0x3000, START + 0x4000)
    assert found.at_once
    entry, page = found.evidence
    assert (entry.found, entry.expected, entry.address) == ("0x9067", "0x0", 0xA000 + 8 * SLOT)
    assert "(for user mode, writable, executable) leads to physical 0x77000" in page.what
    assert page.what.endswith("where there is data")


def test_an_entry_that_maps_nothing_is_found_too() -> None:
    (found,) = findings(_views(entries=_entries(1)), "PT-KERNEL-HALF")
    assert (found.start, found.end) == (START, START + SPAN)


def test_what_is_no_top_level_table_any_more_is_not_taken_for_one_moment() -> None:
    alike = np.array([70, 0, 70, 70])
    (found,) = findings(_views(entries=_entries(1), alike=alike), "PT-KERNEL-HALF")
    assert not found.at_once


def test_a_local_descriptor_table_is_no_finding_unless_user_mode_can_use_it() -> None:
    entries = _entries(1, own=True)
    assert findings(_views(entries=entries), "PT-KERNEL-HALF") == []
    (found,) = findings(_views(entries=entries, leaves=_leaf(0, ALLOW_USER), contents=[""]), "PT-KERNEL-HALF")
    assert found.pid == 101


def test_an_entry_that_a_process_lacks_is_no_finding() -> None:
    assert findings(_views(entries=_entries(1, entry=0)), "PT-KERNEL-HALF") == []


def test_what_most_processes_have_is_one_finding_about_the_kernels_table() -> None:
    (found,) = findings(_views(entries=_entries(0, 1, 2)), "PT-KERNEL-HALF")
    assert (found.mm, found.pid) == (0, 0)
    assert len(findings(_views(entries=_entries(0, 1)), "PT-KERNEL-HALF")) == 2


def test_a_page_of_the_kernels_half_that_user_mode_can_use_is_critical() -> None:
    (found,) = findings(_views(open_leaves=_leaf(-1, ALLOW_USER), open_contents=["zeros"]), "PT-KERNEL-OPEN")
    assert (found.mm, found.severity) == (0, Severity.CRITICAL)
    assert (found.start, found.end) == (START + 0x3000, START + 0x4000)


def test_a_direct_map_that_leads_elsewhere_is_found() -> None:
    (found,) = findings(_views(moved=_leaf(-1, ALLOW_WRITE)), "PT-DIRECT-MAP")
    assert found.evidence[0].what.endswith("(writable) leads to physical 0x77000")
