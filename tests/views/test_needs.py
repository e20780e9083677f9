"""Which views types alone would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from handmade import LINUX, LINUX_5_10, Types

from vmaforensics.views.needs import INDICES, NEEDED, Member, available, needs

if TYPE_CHECKING:
    from support import Sample


def lacking(structs: dict[str, str]) -> dict[str, tuple[str, ...]]:
    return {view.view: view.lacks for view in available(Types(structs, {}))}


def test_every_way_to_every_view_needs_something() -> None:
    assert {view: ways for view, ways in needs().items() if not ways or not all(ways)} == {}
    assert {*NEEDED, *INDICES} <= set(needs())


def test_members_come_from_the_tables_that_are_read() -> None:
    (way,) = needs()["counters"]
    assert Member("mm_struct", "map_count|vma_count") in way
    assert not [need for need in way if need.path.endswith("?") or need.path.startswith("highest_vm_end")]


def test_a_kernel_has_the_index_whose_members_it_has() -> None:
    new, old = lacking(LINUX), lacking(LINUX_5_10 | {"vm_area_struct": LINUX_5_10["vm_area_struct"]})
    assert (new["maple tree"], new["VMA"], new["counters"]) == ((), (), ())
    assert new["vm_next list"] == ("mm_struct.mmap", "vm_area_struct.vm_next")
    assert (old["vm_next list"], old["rbtree"]) == ((), ())
    assert "mm_struct.mm_mt.ma_root" in old["maple tree"]


def test_a_member_of_two_names_is_there_by_either() -> None:
    renamed = LINUX | {"mm_struct": LINUX["mm_struct"].replace("map_count", "vma_count")}
    gone = LINUX | {"mm_struct": LINUX["mm_struct"].replace("map_count:i32 ", "")}
    assert lacking(renamed)["counters"] == ()
    assert lacking(gone)["counters"] == ("mm_struct.map_count or vma_count",)


def test_of_several_ways_the_one_that_lacks_least_says_what_is_missing() -> None:
    structs = {"printk_log": "ts_nsec:u64 text_len:u16 facility:u8 flags:u8"}
    assert lacking(structs)["log"] == ("printk_log.level",)
    assert lacking({})["page tables"] == ("struct mm_struct",)


@pytest.mark.image
def test_kernels_of_the_samples_give_every_view_but_the_indices_of_others(samples: list[Sample]) -> None:
    for sample in samples:
        found = {view.view for view in available(sample.analysis.kernel.types) if view.lacks}
        maple = sample.analysis.views.maple is not None
        assert found == ({"vm_next list", "rbtree"} if maple else {"maple tree"}), sample.name
