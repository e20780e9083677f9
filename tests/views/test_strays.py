"""VMA objects of a slab made by hand that no index leads to: which are part of a memory map by their own marks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from handmade import LINUX, LINUX_5_10, Machine

from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.mms import Mms
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.slab.caches import Caches, ObjectKind
from vmaforensics.views.slab.objects import SlabView, State
from vmaforensics.views.slab.slab_pages import SlabLayout, Slabs
from vmaforensics.views.slab.strays import StrayVmas, find_strays
from vmaforensics.views.vmas.vmas import Vmas

SIZE = 256  # bytes of an object: as far apart as the machine puts them
MM = 0xFFFF_8880_0000_5000
SOUND = {"vm_start": 0x1000, "vm_end": 0x3000, "vm_mm": MM, "vm_refcnt.refs.counter": 1}


def strays_of(
    machine: Machine, *objects: dict[str, int], states: list[State] | None = None, known: int = 0
) -> tuple[StrayVmas, list[int]]:
    """The strays among VMA ``objects``, of which the indices know the first ``known``; the addresses of all."""
    addresses = [machine.put("vm_area_struct", members) for members in objects]
    assert all(after - here == SIZE for here, after in pairwise(addresses))
    slabs = Slabs.of(page=[1], base=addresses[:1], cache=[0], first=[0], objects=[len(objects)])
    caches = Caches.of(kind=[ObjectKind.VMA], cache=[2], size=[SIZE])
    state = np.array(states or [State.ALLOCATED] * len(objects), np.uint8)
    slab = SlabView(layout=SlabLayout(caches=caches, slabs=slabs), state=state)
    vmas = Vmas.zeros(known)
    vmas.vma[:] = addresses[:known]
    kernel = machine.kernel()
    return find_strays(kernel, slab, vmas, Mms.zeros(0), Tasks.zeros(0), ProblemLog()), addresses


def test_strays_are_the_objects_that_no_index_leads_to() -> None:
    found, addresses = strays_of(
        Machine(), SOUND, SOUND, SOUND, states=[State.ALLOCATED, State.ALLOCATED, State.FREE], known=1
    )
    assert found.vmas.vma.tolist() == addresses[1:]
    assert found.state.tolist() == [State.ALLOCATED, State.FREE]
    assert found.attached.tolist() == [True, True]
    assert found.names.tolist() == [b"", b""]  # of an mm that is no process
    assert not len(found.foreign)


@pytest.mark.parametrize(
    "changed",
    [
        {"vm_mm": 0},
        {"vm_end": 0x1000},
        {"vm_start": 0x1010},
        {"vm_refcnt.refs.counter": 0},
        {"vm_refcnt.refs.counter": 0x4000_0000},  # only the flag that keeps readers out
    ],
)
def test_an_object_with_other_marks_is_part_of_no_memory_map(changed: dict[str, int]) -> None:
    found, _ = strays_of(Machine(), SOUND | changed, SOUND)
    assert found.attached.tolist() == [False, True]


def test_a_vma_that_waits_to_be_freed_has_the_callback_in_place_of_its_end() -> None:
    machine = Machine()
    callback = machine.symbols["vm_area_free_rcu_cb"] = 0xFFFF_FFFF_8120_3000
    found, _ = strays_of(machine, SOUND | {"vm_end": callback}, SOUND)
    assert found.attached.tolist() == [False, True]


def test_before_per_vma_locks_bounds_and_mm_are_the_only_marks() -> None:
    members = {name: value for name, value in SOUND.items() if "refcnt" not in name}
    found, _ = strays_of(Machine(LINUX_5_10), members, members | {"vm_mm": 0})
    assert found.attached.tolist() == [True, False]


def test_where_indices_know_every_object_there_are_no_strays() -> None:
    found, _ = strays_of(Machine(LINUX), SOUND, SOUND, known=2)
    assert (len(found.vmas), len(found.state), found.names.tolist()) == (0, 0, [])
