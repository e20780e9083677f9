"""Address spaces that no task has, on tables made by hand: what each is, and that it is told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_operations import Doing, add_operations
from checks.handmade_pages import add_page_tables
from checks.handmade_views import PAGE, Process, findings, task_of, views_of
from vmaforensics.checks.finding import Severity
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.processes.mm_lists import TreeRoots
from vmaforensics.views.processes.mm_sources import TASK_NEW, Source, SourcesView
from vmaforensics.views.processes.mms import Mms
from vmaforensics.views.processes.taskless_mms import MmState, taskless_mms
from vmaforensics.views.slab.objects import State
from vmaforensics.views.slab.strays import StrayVmas
from vmaforensics.views.vmas.vmas import Vmas

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

MM, PGD = 0xFFFF_8880_7000_0000, 0xFFFF_8880_7100_0000
BOTH = Source.TASK_LIST | Source.PID_INDEX | Source.SLAB


def _views(owner: int = 0, **columns: int) -> Views:
    """A process, and an mm that only the slab knows of; ``columns`` are what it holds."""
    views = views_of(Process(pid=100))
    held = {"mm": MM, "users": 1, "count": 1, "map_count": 5, "pgd": PGD, "pgtables_bytes": PAGE, "total_vm": 9}
    other = Mms.of(1, ok=[True], **{name: [value] for name, value in (held | columns).items()})
    mms = Mms.concatenate([views.mms, other])
    views.sources = SourcesView(
        tasks=views.tasks,
        task_sources=np.array([BOTH], np.uint16),
        executing=np.zeros(1, np.bool_),
        mms=mms.sort_by(mms.mm),
        mm_sources=np.array([BOTH, Source.SLAB], np.uint16)[np.argsort(mms.mm)],
        owner=np.array([task_of(100), owner], np.uint64)[np.argsort(mms.mm)],
        last_user=np.zeros(2, np.uint64),
        kernel_own=np.zeros(2, np.bool_),
        roots=TreeRoots.zeros(0),
        whole=BOTH,
    )
    views.taskless = taskless_mms(views.sources, views.mms)
    return views


def _state(views: Views) -> MmState:
    assert views.taskless is not None
    (state,) = views.taskless.state.tolist()
    return MmState(state)


@pytest.mark.parametrize(
    ("columns", "owner", "state"),
    [
        ({"users": 0}, 0, MmState.EXITING),
        ({"users": 0, "pgtables_bytes": 0}, 0, MmState.EMPTY),
        ({"map_count": 1}, task_of(100), MmState.EXEC),
        ({"map_count": 1}, 0, MmState.HELD),
        ({}, task_of(100), MmState.HELD),
    ],
)
def test_what_an_address_space_without_a_task_is(columns: dict[str, int], owner: int, state: MmState) -> None:
    assert _state(_views(owner, **columns)) is state


def test_that_of_a_task_that_is_not_born_is_being_copied() -> None:
    made = _views(task_of(100), map_count=3)
    assert made.sources is not None
    made.sources.tasks.state[0] = TASK_NEW
    assert taskless_mms(made.sources, made.mms).state.tolist() == [MmState.FORK]


def test_a_byte_copy_has_no_page_tables_of_its_own() -> None:
    views = _views()
    views.mms.pgd[:] = PGD
    assert views.sources is not None
    again = taskless_mms(views.sources, views.mms)
    assert again.state.tolist() == [MmState.COPY]
    assert not len(again.mapping())


def test_what_is_on_its_way_is_told_as_what_it_is() -> None:
    views = _views(users=0)
    add_operations(views, Doing(pid=100, operation=Operation.EXIT, functions=("exit_mmap", "do_exit"), mm=0))
    (found,) = findings(views, "MM-TASKLESS")
    assert found.severity == Severity.INFO
    assert found.title == f"address space {MM:#x} is being torn down (exit_mmap), no task can use it, by task 100"


def test_what_has_no_page_tables_left_is_not_told() -> None:
    assert findings(_views(users=0, pgtables_bytes=0), "MM-TASKLESS") == []
    assert findings(views_of(Process()), "MM-TASKLESS") == []


# Arguments that exec charges to the old memory map ---------------------------------------------------------------


def _with_arguments(pages: int) -> Views:
    """Process 100 counts anonymous pages too many, and owns an mm of one area of three pages."""
    views = _views(task_of(100), map_count=1)
    view = add_page_tables(views)
    view.rss[0, 1] += pages
    area = Vmas.of(1, vma=[MM + 0x1000], mm=[MM], ok=[True], start=[0x7F0000], end=[0x7F0000 + 3 * PAGE])
    views.strays = StrayVmas(
        vmas=area,
        state=np.array([State.ALLOCATED], np.uint8),
        attached=np.ones(1, np.bool_),
        avc=np.zeros(1, np.uint64),
        names=views.names.take(np.zeros(1, np.int64)),
        foreign=np.zeros(0, np.uint64),
    )
    return views


@pytest.mark.parametrize(("pages", "wrong"), [(3, False), (2, False), (4, True), (1, True), (-3, True)])
def test_arguments_of_exec_are_charged_to_the_page(pages: int, wrong: bool) -> None:
    assert bool(findings(_with_arguments(pages), "MM-RSS")) is wrong


def test_an_area_of_nobody_who_executes_excuses_no_counter() -> None:
    views = _with_arguments(3)
    assert views.taskless is not None
    views.taskless = replace(views.taskless, state=np.array([MmState.HELD], np.uint8))
    assert findings(views, "MM-RSS")
