"""VMAs that exec mapped and that stay; on views and clocks made by hand.

Memory is read in the order of addresses: tasks, mm_structs, VMAs, nodes of maple trees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import BASE

from checks.handmade_anchors import add_anchors
from checks.handmade_clocks import START, clocks
from checks.handmade_views import MMS, NODES, TASKS, VMAS, Process, views_of, vma_row
from vmaforensics.checks.context import Context
from vmaforensics.checks.unchanged import unchanged
from vmaforensics.views.processes.tasks import PF_EXITING
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

PROGRAM, DATA, LOADER, OTHER, VDSO = 0x400000, 0x403000, 0x7F_1000_0000, 0x7F_2000_0000, 0x7FF0_0001_0000
LINES = (
    "400000-402000 r-xp /bin/cat",
    "403000-404000 rw-p /bin/cat",
    "7f10000000-7f10002000 r-xp /lib/ld.so",
    "7f20000000-7f20002000 r-xp /lib/other.so",
    "7ff000000000-7ff000004000 rw-p [stack]",
    "7ff000010000-7ff000012000 r-xp [vdso]",
)
BEFORE, BETWEEN, BEHIND = TASKS - BASE - 8, MMS - BASE + (1 << 27), NODES - BASE


def running() -> Views:
    """A process that ran while its memory was read; its kernel numbers no changes."""
    views = views_of(Process(pid=100, vmas=LINES))
    anchors = add_anchors(views).mms
    anchors.phdr[:], anchors.base[:], anchors.sysinfo_ehdr[:] = PROGRAM + 64, LOADER, VDSO
    views.vmas.kind[vma_row(views, VDSO)] = Kind.SPECIAL
    views.clocks = clocks(ran={100: START + 5.0})
    return views


def same(views: Views, start: int, word: int) -> bool:
    """Was the VMA at ``start`` the same when the word at a physical address was read?"""
    known = unchanged(Context(views))
    assert known is not None
    vmas = views.vmas.take(np.array([vma_row(views, start)]))
    return bool(known.through(vmas, np.array([word], np.uint64))[0])


@pytest.mark.parametrize(
    ("start", "word", "stays"),
    [
        (PROGRAM, BETWEEN, True),  # behind the task and the mm_struct, before the VMA
        (LOADER, BETWEEN, True),
        (VDSO, BETWEEN, True),
        (VDSO, BEHIND, False),
        (OTHER, BETWEEN, False),  # the program itself mapped it, and may unmap it
        (DATA, BETWEEN, False),  # what is written to is protected and split by its program
        (PROGRAM, BEFORE, False),  # nothing was read before that speaks of this program
        (PROGRAM, BEHIND, False),  # nor after
    ],
)
def test_what_exec_mapped_stays_from_one_of_its_records_to_another(start: int, word: int, *, stays: bool) -> None:
    assert same(running(), start, word) is stays


def test_a_program_that_is_mapped_where_each_of_its_kind_is_proves_nothing() -> None:
    views = running()
    assert views.anchors is not None
    views.anchors.mms.base[:] = 0
    assert not same(views, PROGRAM, BETWEEN)


def test_a_vdso_elsewhere_than_exec_put_it_was_moved_by_its_program() -> None:
    views = running()
    assert views.anchors is not None
    views.anchors.mms.sysinfo_ehdr[:] += 4096
    assert not same(views, VDSO, BETWEEN)


def test_who_began_while_memory_was_read_or_ends_proves_nothing() -> None:
    views = running()
    assert views.clocks is not None
    views.clocks.tasks.started[:] = (START + 1) * 10**9
    assert not same(views, PROGRAM, BETWEEN)
    views = running()
    views.tasks.flags[:] |= PF_EXITING
    assert not same(views, PROGRAM, BETWEEN)


def test_places_of_handmade_views_are_what_these_tests_take_them_for() -> None:
    assert TASKS < MMS < VMAS < NODES
