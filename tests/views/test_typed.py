"""What kmalloc objects are, by typed pointers that lead to them."""

from __future__ import annotations

import numpy as np
import pytest

from views.handmade_objects import STRUCTS, Hand
from vmaforensics.views.objects.explain import Meaning, explain

TYPED = STRUCTS | {
    "task_struct": STRUCTS["task_struct"] + " io:*io_context",
    "io_context": "count:u64 queue:*pipe_inode_info twin:* overlaid@16:*io_context tiny:*list_head odd:*huge",
    "pipe_inode_info": "count:u64 head:u64",
    "huge": "words:u64[100]",
}


@pytest.fixture
def hand() -> Hand:
    made = Hand(TYPED)
    made.cache("kmalloc-64", 64)
    return made


def _held(hand: Hand, member: str, holder: int = 0) -> int:
    """Object 1, which the ``member`` of object 0 leads to, and that the first task."""
    io, inner = hand.object("kmalloc-64", holder), hand.object("kmalloc-64", 1)
    hand.put("io_context", io, {member: inner})
    hand.put("task_struct", hand.machine.symbols["init_task"], {"io": io, "pid": 1})
    return inner


def _told(hand: Hand, value: int) -> Meaning:
    return explain(hand.surroundings(), np.array([value], np.uint64), 0)[0]


def test_an_object_is_what_the_pointer_to_it_says_and_the_page_says_which_pointer(hand: Hand) -> None:
    inner = _held(hand, "queue")
    meaning = _told(hand, inner + 8)
    assert (meaning.struct, meaning.member) == ("pipe_inode_info", "head")
    assert meaning.text == (
        f"allocated pipe_inode_info {inner:#x}+0x8 (.head), as io_context.queue of "
        f"{hand.object('kmalloc-64', 0):#x} has it (cache kmalloc-64)"
    )


def test_what_overlaps_or_links_or_is_too_large_says_nothing(hand: Hand) -> None:
    for member in ("overlaid", "tiny", "odd"):
        assert _told(hand, _held(hand, member)).struct is None


def test_two_pointers_that_contradict_say_nothing(hand: Hand) -> None:
    inner = _held(hand, "queue")
    hand.put("task_struct", hand.machine.symbols["init_task"], {"io": hand.object("kmalloc-64", 0)})
    assert _told(hand, inner).struct == "pipe_inode_info"
    hand.put("io_context", hand.object("kmalloc-64", 0), {"queue": hand.object("kmalloc-64", 0)})
    assert _told(hand, hand.object("kmalloc-64", 0)).struct is None


def test_of_a_cache_that_holds_several_kinds_a_pointer_knows_better_than_the_name() -> None:
    hand = Hand(TYPED)
    hand.cache("anon_vma_chain", 64, users=3)
    shared = hand.object("anon_vma_chain", 1)
    hand.put("task_struct", hand.machine.symbols["init_task"], {"io": shared})
    assert _told(hand, shared).struct == "io_context"
    assert _told(hand, hand.object("anon_vma_chain", 2)).struct == "anon_vma_chain"
