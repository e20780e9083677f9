"""Objects of caches that nobody asked for beforehand."""

from __future__ import annotations

import numpy as np
from handmade import BASE, PAGE, Types

from views.handmade_objects import Hand
from vmaforensics.views.objects.members import begins_at, member_at, struct_of_cache
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.slab.any_cache import FoundObjects, find_objects
from vmaforensics.views.slab.objects import State


def found(hand: Hand, *addresses: int) -> FoundObjects:
    return find_objects(hand.machine.kernel(), np.array(addresses, np.uint64), ProblemLog())


def test_addresses_of_several_caches_are_found_at_once() -> None:
    hand = Hand()
    hand.cache("dentry", 192)
    hand.cache("filp", 256)
    places = found(hand, hand.object("filp", 3) + 17, 12, hand.object("dentry", 20), hand.object("filp", 0))
    assert [places.names[row] if row >= 0 else b"" for row in places.places.cache] == [b"filp", b"", b"dentry", b"filp"]
    assert places.places.start.tolist() == [
        hand.object("filp", 3),
        0,
        hand.object("dentry", 20),
        hand.object("filp", 0),
    ]
    assert places.places.state.tolist() == [State.ALLOCATED, State.ABSENT, State.ALLOCATED, State.ALLOCATED]


def test_a_slab_whose_count_cannot_be_is_not_believed() -> None:
    hand = Hand()
    hand.cache("filp", 256)
    hand.machine.set("slab", hand.page_of(hand.object("filp", 0)), "objects", 17)
    assert found(hand, hand.object("filp", 3)).places.start.tolist() == [0]


def test_a_slab_whose_cache_cannot_be_read_is_none() -> None:
    hand = Hand()
    hand.cache("filp", 256)
    hand.machine.set("slab", hand.page_of(hand.object("filp", 0)), "slab_cache", BASE + 4096 * PAGE)
    assert found(hand, hand.object("filp", 3)).places.cache.tolist() == [-1]


def test_the_structure_of_a_cache_has_to_fit_into_its_objects() -> None:
    kernel = Hand().machine.kernel()
    assert struct_of_cache(kernel, "filp", 256) == "file"
    assert struct_of_cache(kernel, "filp", 8) is None
    assert struct_of_cache(kernel, "task_struct", 64) == "task_struct"  # less FPU state than the type has
    assert struct_of_cache(kernel, "kmalloc-64", 64) is None


def test_members_are_named_down_to_where_the_offset_leads() -> None:
    words = "count:u32 node:list_head slots:*[4] lock@64:u8 pad@64:u64"
    types = Types({"list_head": "next:* prev:*", "thing": words}, {})
    assert member_at(types, "thing", 0) == "count"
    assert member_at(types, "thing", 2) == "count+0x2"
    assert member_at(types, "thing", 8) == "node"
    assert member_at(types, "thing", 8, innermost=True) == "node.next"
    assert member_at(types, "thing", 16) == "node.prev"
    assert member_at(types, "thing", 40) == "slots[2]"
    assert member_at(types, "thing", 64) == "lock"
    assert member_at(types, "thing", 4096) is None
    assert member_at(types, "nothing", 0) is None
    assert begins_at(types, "thing", 2) is None
    assert begins_at(types, "thing", 8) == "node.next"
