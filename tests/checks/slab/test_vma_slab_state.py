"""VMA-SLAB-STATE on slabs made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from checks.handmade_views import VMAS, Process, findings, mm_of, views_of
from vmaforensics.columns.texts import Texts
from vmaforensics.views.slab.caches import Caches, ObjectKind
from vmaforensics.views.slab.objects import SlabView, State
from vmaforensics.views.slab.slab_pages import SlabLayout, Slabs
from vmaforensics.views.slab.strays import StrayVmas
from vmaforensics.views.vmas.vmas import Vmas

if TYPE_CHECKING:
    from vmaforensics.views.views import Views


def _views(foreign: tuple[int, ...] = ()) -> Views:
    """All VMAs are objects of one slab and are allocated."""
    views = views_of(Process(pid=100), Process(pid=101))
    count = len(views.vmas)
    layout = SlabLayout(
        caches=Caches.of(1, kind=[ObjectKind.VMA], cache=[0xFFFF_8880_0800_0000], size=[256]),
        slabs=Slabs.of(1, base=[VMAS], cache=[0], objects=[count]),
    )
    views.slab = SlabView(layout=layout, state=np.full(count, State.ALLOCATED, np.uint8))
    views.strays = StrayVmas(
        vmas=Vmas.zeros(0),
        state=np.zeros(0, np.uint8),
        attached=np.zeros(0, np.bool_),
        avc=np.zeros(0, np.uint64),
        names=Texts.of(()),
        foreign=np.array(foreign, np.uint64),
    )
    return views


def test_allocated_vmas_are_none() -> None:
    assert findings(_views(), "VMA-SLAB-STATE") == []


def test_a_free_vma_in_an_index_is_found() -> None:
    views = _views()
    assert views.slab is not None
    views.slab.state[2] = State.FREE
    (found,) = findings(views, "VMA-SLAB-STATE")
    assert (found.mm, found.start, found.end) == (mm_of(101), 0x400000, 0x402000)
    assert found.title.endswith("is free in its slab")


def test_a_vma_outside_the_cache_is_found() -> None:
    (found,) = findings(_views(foreign=(VMAS + 256,)), "VMA-SLAB-STATE")
    assert (found.mm, found.start) == (mm_of(100), 0x7F0000)
    assert found.title.endswith("lies outside the cache of such structures")


def test_a_list_that_was_not_read_to_its_end_and_an_exiting_process_say_nothing() -> None:
    views = _views()
    assert views.slab is not None
    views.slab.state[0] = State.UNKNOWN
    views.slab.state[2] = State.FREE
    views.mms.users[1] = 0
    assert findings(views, "VMA-SLAB-STATE") == []
