"""Slab objects: what is allocated is what the indexes hold, and broken free lists are told, not believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, kernel_on

from vmaforensics.views.problems import Problem, ProblemLog, Problems
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import SlabView, State, gather_slab
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from support import Sample


def _states(slab: SlabView, row: int) -> NDArray[np.uint8]:
    """The states of the objects of the slab at ``row``."""
    first = int(slab.slabs.first[row])
    return slab.state[first : first + int(slab.slabs.objects[row])]


def _heads(sample: Sample) -> str:
    """The structure that says what a slab has."""
    return "slab" if sample.analysis.kernel.has("slab", "freelist") else "page"


def _slab(sample: Sample) -> SlabView:
    slab = sample.analysis.views.slab
    if slab is None or not len(slab.state):
        pytest.skip("this excerpt was made before slab pages were read")
    return slab


def _slabinfo(sample: Sample) -> dict[str, tuple[int, int]]:
    """(active_objs, num_objs) of each cache, as /proc/slabinfo had them."""
    lines = sample.truth["proc/slabinfo"].decode().splitlines()[2:]
    return {line.split()[0]: (int(line.split()[1]), int(line.split()[2])) for line in lines}


def _again(sample: Sample, edit: Edit) -> tuple[SlabView, Problems]:
    log = ProblemLog()
    slab = gather_slab(kernel_on(sample.analysis.kernel, edit.overlay), log)
    assert slab is not None
    table = log.table()
    return slab, table.take(table.view == View.SLAB)


def test_what_is_allocated_is_what_the_indexes_hold(whole_kernel: Sample) -> None:
    slab, views = _slab(whole_kernel), whole_kernel.analysis.views
    assert (slab.states(views.vmas.vma, ObjectKind.VMA) == State.ALLOCATED).all()
    assert (slab.states(views.mms.mm, ObjectKind.MM) == State.ALLOCATED).all()
    assert (slab.states(views.tasks.task, ObjectKind.TASK) == State.ALLOCATED).all()
    assert (slab.states(views.maple_nodes.address, ObjectKind.MAPLE_NODE) == State.ALLOCATED).all()
    strays = views.strays
    assert strays is not None
    live = strays.attached & (strays.state == State.ALLOCATED)
    assert not live[np.isin(strays.vmas.mm, views.mms.mm)].any()
    assert not len(strays.foreign)
    assert not (views.problems.view == View.SLAB).any()


def test_counts_are_those_of_slabinfo(whole_kernel: Sample) -> None:
    """Objects on lists of CPUs and in sheaves are free here and active there; a merged cache has its first name."""
    slab, truth = _slab(whole_kernel), _slabinfo(whole_kernel)
    compared = 0
    for number_of_kind, most in zip(
        slab.caches.kind.tolist(), slab.caches.most(whole_kernel.analysis.kernel.arch).tolist(), strict=True
    ):
        kind = ObjectKind(number_of_kind)
        name = kind.struct
        if name not in truth:
            continue
        objects = slab.of(kind)
        active, number = truth[name]
        assert abs(len(objects) - number) <= 2 * most, name  # a second passes before the image is made
        assert (objects.state == State.ALLOCATED).sum() <= active + most, name
        compared += 1
    assert compared >= 4


def test_a_slab_without_a_cpu_counts_what_is_free_itself(whole_kernel: Sample) -> None:
    slab = _slab(whole_kernel)
    if slab.caches.capacity.any():
        pytest.skip("objects in sheaves count as in use")
    inuse, read = whole_kernel.analysis.kernel.gather_member(_heads(whole_kernel), "inuse", slab.slabs.page)
    assert read.all()
    for row in np.flatnonzero(~slab.slabs.frozen).tolist():
        assert (_states(slab, row) != State.FREE).sum() == inuse[row]


def test_a_free_pointer_that_leads_astray_is_told_and_leaves_doubt(whole_kernel: Sample) -> None:
    slab = _slab(whole_kernel)
    kinds = slab.caches.kind[slab.slabs.cache]
    wanted = ObjectKind.MAPLE_NODE if (kinds == ObjectKind.MAPLE_NODE).any() else ObjectKind.ANON_VMA
    row = int(np.flatnonzero((kinds == wanted) & (slab.slabs.freelist != 0))[0])
    edit = Edit(whole_kernel.analysis)
    page, base = int(slab.slabs.page[row]), int(slab.slabs.base[row])
    edit.put(edit.at(_heads(whole_kernel), page, "freelist"), base + 1)
    again, problems = _again(whole_kernel, edit)
    assert (problems.problem == Problem.MISALIGNED).any()
    inside = _states(again, row)
    assert not (inside == State.ALLOCATED).any()
    assert (inside == State.UNKNOWN).any()


def test_a_chain_of_free_objects_that_returns_ends(whole_kernel: Sample) -> None:
    slab, kernel = _slab(whole_kernel), whole_kernel.analysis.kernel
    row = int(np.flatnonzero(slab.slabs.freelist)[0])
    cache, head = slab.slabs.cache[row], int(slab.slabs.freelist[row])
    random = int(slab.caches.random[cache])
    where = head + int(slab.caches.offset[cache])
    edit = Edit(whole_kernel.analysis)
    swapped = int.from_bytes(where.to_bytes(8, "big"), "little")
    edit.put(where, head ^ random ^ swapped if random else head)
    again, problems = _again(whole_kernel, edit)
    assert kernel.sizeof("kmem_cache")
    assert (problems.problem == Problem.CYCLE).any()
    assert len(again.state) == len(slab.state)


def test_without_the_free_lists_nothing_is_said_to_be_allocated(whole_kernel: Sample) -> None:
    slab = _slab(whole_kernel)
    edit = Edit(whole_kernel.analysis)
    kernel = whole_kernel.analysis.kernel
    frozen = np.flatnonzero(slab.slabs.frozen).tolist()
    if not frozen or not kernel.has("kmem_cache", "cpu_slab") or slab.caches.capacity.any():
        pytest.skip("no slab is lent to a CPU")
    table = kernel.symbols.get("__per_cpu_offset")
    assert table is not None
    offset = edit.get(table)
    for cache in np.unique(slab.caches.cpu_slab).tolist():
        edit.drop((cache + offset) % (1 << 64))
    again, problems = _again(whole_kernel, edit)
    assert (problems.problem == Problem.UNREADABLE).any()
    for row in frozen:
        assert not (_states(again, row) == State.ALLOCATED).any()


def test_an_absurd_count_of_objects_is_not_believed(whole_kernel: Sample) -> None:
    slab = _slab(whole_kernel)
    edit = Edit(whole_kernel.analysis)
    edit.put(edit.at(_heads(whole_kernel), int(slab.slabs.page[0]), "objects"), 0x7FFF, 2)
    again, problems = _again(whole_kernel, edit)
    assert (problems.problem == Problem.BAD_TAG).any()
    assert len(again.slabs) == len(slab.slabs) - 1
