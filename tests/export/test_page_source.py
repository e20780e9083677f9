"""Where the bytes of pages are, by page tables made by hand: every state, huge entries, tables that are lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
from handmade import BASE, PAGE, Machine

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, PteState, TablePages
from vmaforensics.export.page_source import (
    ABSENT,
    NOT_MAPPED,
    NOT_RAM,
    OTHER,
    PRESENT,
    SWAPPED,
    UNKNOWN,
    ZERO,
    PageSources,
    frame_pages,
    mapped_pages,
)
from vmaforensics.views.pages.entries import KeptEntries
from vmaforensics.views.pages.ptes import Ptes
from vmaforensics.views.processes.mms import Mms

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_tables import PageTablesView

START = 0x7F00_0000_0000
MM = 0xFFFF_8880_0000_5000
HUGE = 2 << 20
READ = ALLOW_USER | ALLOW_EXECUTE


def view_of(
    kernel: Kernel, *entries: tuple[int, PteState, int, int], lost: tuple[int, int] | None = None, whole: bool = True
) -> PageTablesView:
    """Page tables of one process with (address, state, frame, level) entries; ``lost`` is (address, level) of a table
    that is not in the dump."""
    columns = list(zip(*entries, strict=True)) or [(), (), (), ()]
    va, state, pfn, level = columns
    none = [0] * len(entries)
    ptes = Ptes.of(
        len(entries), mm_row=none, va=va, state=state, pfn=pfn, level=level, allow=[READ] * len(entries), entry=va
    )
    tables = TablePages.zeros(0)
    if lost is not None:
        tables = TablePages.of(va=[lost[0]], level=[lost[1]], owner=[0], ok=[False])
    made = SimpleNamespace(
        arch=kernel.arch,
        entries=KeptEntries(kernel.arch, ptes),
        tables=tables,
        whole=np.array([whole and lost is None]),
        truncated=False,
    )
    return cast("PageTablesView", made)


def read(
    kernel: Kernel, view: PageTablesView | None, pages: int, start: int = START, *, ok: bool = True
) -> PageSources:
    mms = Mms.zeros(1)
    mms.mm[:], mms.ok[:] = MM, ok
    return mapped_pages(kernel, mms, view, MM, start, start + pages * PAGE)


def test_every_page_has_the_state_of_its_entry() -> None:
    machine = Machine()
    machine.drop(machine.room(PAGE, PAGE))  # frame 1
    zero = machine.symbols["empty_zero_page"] = machine.room(PAGE, PAGE)  # frame 2
    kernel = machine.kernel()
    view = view_of(
        kernel,
        (START, PteState.PRESENT, 0, 1),
        (START + PAGE, PteState.PRESENT, 1, 1),
        (START + 2 * PAGE, PteState.PRESENT, (zero - BASE) // PAGE, 1),
        (START + 4 * PAGE, PteState.PROTNONE, 3, 1),
        (START + 5 * PAGE, PteState.PRESENT, 1 << 30, 1),
        (START + 6 * PAGE, PteState.SWAP, 0, 1),
        (START + 7 * PAGE, PteState.OTHER, 0, 1),
    )
    pages = read(kernel, view, 9)
    assert pages.state.tolist() == [PRESENT, ABSENT, ZERO, NOT_MAPPED, PRESENT, NOT_RAM, SWAPPED, OTHER, NOT_MAPPED]
    assert pages.has_bytes.tolist() == [True, False, False, False, True, False, False, False, False]
    assert pages.address.tolist() == [START + at * PAGE for at in range(9)]


def test_runs_join_pages_whose_frames_follow_each_other() -> None:
    kernel = Machine().kernel()
    frames = (4, 5, 9, 10)
    view = view_of(kernel, *((START + at * PAGE, PteState.PRESENT, pfn, 1) for at, pfn in enumerate(frames)))
    runs = list(read(kernel, view, 6).records())
    assert [(run.start, run.pages, run.state, run.pfn) for run in runs] == [
        (hex(START), 2, "present", "0x4"),
        (hex(START + 2 * PAGE), 2, "present", "0x9"),
        (hex(START + 4 * PAGE), 2, "not mapped", None),
    ]
    assert [run.perms for run in runs] == ["r-x", "r-x", None]


def test_a_swapped_page_is_a_run_of_its_own_with_its_entry() -> None:
    kernel = Machine().kernel()
    view = view_of(kernel, *((START + at * PAGE, PteState.SWAP, 0, 1) for at in range(2)))
    runs = list(read(kernel, view, 2).records())
    assert [(run.pages, run.entry) for run in runs] == [(1, hex(START)), (1, hex(START + PAGE))]


def test_a_huge_entry_is_clipped_to_the_range() -> None:
    kernel = Machine(pages=1024).kernel()
    view = view_of(kernel, (START, PteState.PRESENT, 512, 2))
    pages = read(kernel, view, 3, START + 7 * PAGE)
    assert pages.pfn.tolist() == [519, 520, 521]
    assert pages.level.tolist() == [2, 2, 2]
    over = read(kernel, view, 4, START + HUGE - 2 * PAGE)
    assert over.state.tolist() == [PRESENT, PRESENT, NOT_MAPPED, NOT_MAPPED]


def test_nothing_is_known_below_a_table_that_is_not_in_the_dump() -> None:
    kernel = Machine().kernel()
    view = view_of(kernel, (START - PAGE, PteState.PRESENT, 3, 1), lost=(START, 1))
    pages = read(kernel, view, 3, START - 2 * PAGE)
    assert pages.state.tolist() == [NOT_MAPPED, PRESENT, UNKNOWN]


def test_where_tables_are_missing_and_nobody_knows_which_all_is_unknown_but_what_is_mapped() -> None:
    kernel = Machine().kernel()
    entry = (START, PteState.PRESENT, 3, 1)
    assert read(kernel, view_of(kernel, entry, whole=False), 2).state.tolist() == [PRESENT, UNKNOWN]
    assert read(kernel, view_of(kernel, entry), 2, ok=False).state.tolist() == [PRESENT, UNKNOWN]
    assert read(kernel, None, 2).state.tolist() == [UNKNOWN, UNKNOWN]


def test_an_mm_that_is_no_process_is_unknown() -> None:
    kernel = Machine().kernel()
    pages = mapped_pages(kernel, Mms.zeros(0), view_of(kernel), MM, START, START + PAGE)
    assert pages.state.tolist() == [UNKNOWN]


def test_frames_are_asked_of_the_memory() -> None:
    machine = Machine(pages=4)
    machine.drop(machine.room(0))  # frame 1
    pages = frame_pages(machine.kernel(), 0, 6 * PAGE)
    assert pages.state.tolist() == [PRESENT, ABSENT, PRESENT, PRESENT, NOT_RAM, NOT_RAM]
    runs = list(pages.records())
    assert [(run.start, run.pages, run.pfn, run.perms) for run in runs][2:] == [
        (hex(2 * PAGE), 2, "0x2", None),
        (hex(4 * PAGE), 2, "0x4", None),
    ]
