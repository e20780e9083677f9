"""Slab objects: what is allocated is what the indexes hold, and broken free lists are told, not believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, kernel_on

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.objects import SlabView, State, gather_slab
from vmaforensics.views.slab.slab_pages import ObjectKind
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from support import Sample

_NAMES = {kind: kind.struct for kind in ObjectKind}


def _slab(sample: Sample) -> SlabView:
    slab = sample.analysis.views.slab
    if slab is None or not len(slab.objects):
        pytest.skip("this excerpt was made before slab pages were read")
    return slab


def _slabinfo(sample: Sample) -> dict[str, tuple[int, int]]:
    """(active_objs, num_objs) of each cache, as /proc/slabinfo had them."""
    lines = sample.truth["proc/slabinfo"].decode().splitlines()[2:]
    return {line.split()[0]: (int(line.split()[1]), int(line.split()[2])) for line in lines}


def _again(sample: Sample, edit: Edit) -> tuple[SlabView, NDArray[np.void]]:
    log = ProblemLog()
    slab = gather_slab(kernel_on(sample.analysis.kernel, edit.overlay), log)
    assert slab is not None
    table = log.table()
    return slab, table[table["view"] == View.SLAB]


def test_what_is_allocated_is_what_the_indexes_hold(whole_kernel: Sample) -> None:
    slab, views = _slab(whole_kernel), whole_kernel.analysis.views
    assert (slab.states(views.vmas["vma"], ObjectKind.VMA) == State.ALLOCATED).all()
    assert (slab.states(views.mms["mm"], ObjectKind.MM) == State.ALLOCATED).all()
    assert (slab.states(views.tasks["task"], ObjectKind.TASK) == State.ALLOCATED).all()
    assert (slab.states(views.maple_nodes.address, ObjectKind.MAPLE_NODE) == State.ALLOCATED).all()
    live = slab.attached & (slab.stray_state == State.ALLOCATED)
    assert not live[np.isin(slab.strays["mm"], views.mms["mm"])].any()
    assert not len(slab.foreign)
    assert not (views.problems["view"] == View.SLAB).any()


def test_counts_are_those_of_slabinfo(whole_kernel: Sample) -> None:
    """Objects on lists of CPUs and in sheaves are free here and active there; a merged cache has its first name."""
    slab, truth = _slab(whole_kernel), _slabinfo(whole_kernel)
    told = 0
    for row in slab.caches:
        name = _NAMES[ObjectKind(int(row["kind"]))]
        if name not in truth:
            continue
        mine = slab.of(ObjectKind(int(row["kind"])))
        active, number = truth[name]
        assert abs(len(mine) - number) <= 2 * int(row["most"]), name  # a second passes before the image is made
        assert (mine["state"] == State.ALLOCATED).sum() <= active + int(row["most"]), name
        told += 1
    assert told >= 4


def test_a_slab_without_a_cpu_counts_what_is_free_itself(whole_kernel: Sample) -> None:
    slab = _slab(whole_kernel)
    if slab.caches["capacity"].any():
        pytest.skip("objects in sheaves count as in use")
    free = np.bincount(
        np.searchsorted(slab.slabs["base"], slab.objects["address"][slab.objects["state"] == State.FREE], "right") - 1,
        minlength=len(slab.slabs),
    )
    idle = ~slab.slabs["frozen"]
    assert (slab.slabs["objects"] - free == slab.slabs["inuse"])[idle].all()


def test_a_free_pointer_that_leads_astray_is_told_and_leaves_doubt(whole_kernel: Sample) -> None:
    slab = _slab(whole_kernel)
    cache = slab.caches["cache"][slab.caches["kind"] == ObjectKind.MAPLE_NODE]
    cache = cache if len(cache) else slab.caches["cache"][slab.caches["kind"] == ObjectKind.ANON_VMA]
    rows = slab.slabs[(slab.slabs["cache"] == cache[0]) & (slab.slabs["freelist"] != 0)]
    assert len(rows)
    edit = Edit(whole_kernel.analysis)
    kernel = whole_kernel.analysis.kernel
    struct = "slab" if kernel.has("slab", "freelist") else "page"
    edit.put(edit.at(struct, int(rows["page"][0]), "freelist"), int(rows["base"][0]) + 1)
    again, problems = _again(whole_kernel, edit)
    assert (problems["problem"] == Problem.MISALIGNED).any()
    inside = again.objects[again.objects["slab"] == rows["page"][0]]
    assert not (inside["state"] == State.ALLOCATED).any()
    assert (inside["state"] == State.UNKNOWN).any()


def test_a_chain_of_free_objects_that_returns_ends(whole_kernel: Sample) -> None:
    slab, kernel = _slab(whole_kernel), whole_kernel.analysis.kernel
    free = slab.objects[slab.objects["state"] == State.FREE]
    heads = slab.slabs[np.isin(slab.slabs["freelist"], free["address"])]
    row = heads[0]
    cache = slab.caches[slab.caches["cache"] == row["cache"]][0]
    head = int(row["freelist"])
    where = head + int(cache["offset"])
    edit = Edit(whole_kernel.analysis)
    swapped = int.from_bytes(where.to_bytes(8, "big"), "little")
    edit.put(where, head ^ int(cache["random"]) ^ swapped if cache["random"] else head)
    again, problems = _again(whole_kernel, edit)
    assert kernel.sizeof("kmem_cache")
    assert (problems["problem"] == Problem.CYCLE).any()
    assert len(again.objects) == len(slab.objects)


def test_without_the_free_lists_nothing_is_said_to_be_allocated(whole_kernel: Sample) -> None:
    slab = _slab(whole_kernel)
    edit = Edit(whole_kernel.analysis)
    kernel = whole_kernel.analysis.kernel
    frozen = slab.slabs[slab.slabs["frozen"]]
    if not len(frozen) or not kernel.has("kmem_cache", "cpu_slab") or slab.caches["capacity"].any():
        pytest.skip("no slab is lent to a CPU")
    table = kernel.symbols.get("__per_cpu_offset")
    assert table is not None
    offset = edit.get(table)
    for cache in np.unique(slab.caches["cpu_slab"]).tolist():
        edit.drop((cache + offset) % (1 << 64))
    again, problems = _again(whole_kernel, edit)
    assert (problems["problem"] == Problem.UNREADABLE).any()
    inside = again.objects[np.isin(again.objects["slab"], frozen["page"])]
    assert not (inside["state"] == State.ALLOCATED).any()


def test_an_absurd_count_of_objects_is_not_believed(whole_kernel: Sample) -> None:
    slab, kernel = _slab(whole_kernel), whole_kernel.analysis.kernel
    struct = "slab" if kernel.has("slab", "objects") else "page"
    edit = Edit(whole_kernel.analysis)
    edit.put(edit.at(struct, int(slab.slabs["page"][0]), "objects"), 0x7FFF, 2)
    again, problems = _again(whole_kernel, edit)
    assert (problems["problem"] == Problem.BAD_TAG).any()
    assert len(again.slabs) == len(slab.slabs) - 1
