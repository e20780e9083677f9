"""Which member lies where, of structures whose members overlap."""

from __future__ import annotations

import numpy as np
from handmade import Machine

from views.handmade_objects import STRUCTS, Hand
from vmaforensics.views.objects.explain import explain
from vmaforensics.views.objects.members import begins_at, member_at

TYPES = (
    Machine(
        {
            "list_head": "next:* prev:*",
            "callback_head": "next:* func:*",
            "lock": "counter:u32",
            "dentry": "flags:u64 d_wait:* d_lru@8:list_head d_lock:lock locked@24:u8 __d_sb@32:* d_sb@32:* "
            "d_rcu@40:callback_head d_op@40:*",
        }
    )
    .kernel()
    .types
)


def test_members_that_overlap_are_all_named_where_one_is_a_pointer() -> None:
    assert member_at(TYPES, "dentry", 8) == "d_wait|d_lru"
    assert begins_at(TYPES, "dentry", 8) == "d_wait|d_lru.next"
    assert member_at(TYPES, "dentry", 16) == "d_lru.prev"


def test_of_numbers_the_smallest_is_named_and_of_two_names_for_one_thing_the_first() -> None:
    assert member_at(TYPES, "dentry", 24) == "locked"
    assert member_at(TYPES, "dentry", 32) == "__d_sb"


def test_what_a_place_is_used_for_after_the_object_is_given_back_is_not_named() -> None:
    assert member_at(TYPES, "dentry", 40) == "d_op"
    assert member_at(TYPES, "dentry", 4) == "flags+0x4"


def test_the_node_of_a_file_mapping_is_not_called_the_name_of_an_anonymous_one() -> None:
    vma = (
        STRUCTS["vm_area_struct"]
        .replace(" shared:", " anon_name:* shared@200:")
        .replace("anon_name:*", "anon_name@200:*")
    )
    hand = Hand(STRUCTS | {"vm_area_struct": vma})
    hand.cache("vm_area_struct", 256)
    place = hand.machine.at("vm_area_struct", 0, "anon_name")
    of_file, anonymous = hand.object("vm_area_struct", 1), hand.object("vm_area_struct", 2)
    hand.put("vm_area_struct", of_file, {"vm_file": hand.machine.put("file")})
    values = np.array([of_file + place, anonymous + place], np.uint64)
    assert [meaning.member for meaning in explain(hand.surroundings(), values, 0)] == ["shared", "anon_name"]
