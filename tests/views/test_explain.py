"""What values lead to, in a kernel made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE, PAGE

from views.handmade_objects import TABLE, Hand
from vmaforensics.views.objects.explain import Meaning, explain
from vmaforensics.views.objects.places import Place
from vmaforensics.views.slab.objects import State


def told(hand: Hand, *values: int, mm: int | None = 0) -> list[Meaning]:
    return explain(hand.surroundings(), np.array(values, np.uint64), mm)


@pytest.fixture
def hand() -> Hand:
    made = Hand()
    made.cache("vm_area_struct", 256)
    return made


def test_an_object_is_named_with_its_member_and_what_it_is(hand: Hand) -> None:
    mm = hand.machine.put("mm_struct")
    vma = hand.object("vm_area_struct", 3)
    hand.put("vm_area_struct", vma, {"vm_start": 0x400000, "vm_end": 0x402000, "vm_flags": 0x75, "vm_mm": mm})
    whole, member = told(hand, vma, vma + 16)
    assert (whole.place, whole.struct, whole.state, whole.object) == (
        Place.OBJECT,
        "vm_area_struct",
        State.ALLOCATED,
        vma,
    )
    assert member.member == "vm_mm"
    assert member.text == (
        f"allocated vm_area_struct {vma:#x}+0x10 (.vm_mm): 400000-402000 r-xp anonymous of mm {mm:#x}, "
        "which no process has"
    )


def test_a_free_object_says_where_on_its_list_it_stands(hand: Hand) -> None:
    hand.free("vm_area_struct", 5, 2, 7)
    first, third, used = told(hand, *(hand.object("vm_area_struct", number) for number in (5, 7, 6)))
    assert (first.state, third.state, used.state) == (State.FREE, State.FREE, State.ALLOCATED)
    assert first.text.startswith("free (1st on its free list) vm_area_struct")
    assert third.text.startswith("free (3rd on its free list) vm_area_struct")


def test_a_list_that_leads_astray_leaves_it_open_who_is_free(hand: Hand) -> None:
    hand.free("vm_area_struct", 5)
    hand.machine.word(hand.object("vm_area_struct", 5) + 8, BASE + 24)
    assert told(hand, hand.object("vm_area_struct", 6))[0].state == State.UNKNOWN


def test_objects_of_a_cache_that_the_types_do_not_know_are_named_by_it(hand: Hand) -> None:
    hand.cache("kmalloc-128", 128)
    (meaning,) = told(hand, hand.object("kmalloc-128", 2) + 8)
    assert meaning.struct is None
    assert meaning.text == f"allocated object of cache kmalloc-128 {hand.object('kmalloc-128', 2):#x}+0x8"


def test_a_cache_of_several_kinds_says_so(hand: Hand) -> None:
    hand.cache("anon_vma_chain", 64, users=3)
    (meaning,) = told(hand, hand.object("anon_vma_chain", 1))
    assert meaning.text.endswith("(the cache holds 3 kinds of objects)")


def test_the_name_of_a_cache_is_made_printable(hand: Hand) -> None:
    hand.cache("\x1b[31mfake", 128)
    (meaning,) = told(hand, hand.object("\x1b[31mfake", 0))
    assert meaning.cache == "\\x1b[31mfake"
    assert meaning.text.isprintable()


def test_the_rest_of_a_slab_is_none_of_its_objects(hand: Hand) -> None:
    hand.cache("odd", 1000)
    base, size = hand.slabs["odd"]
    (meaning,) = told(hand, base + 4 * size + 8)
    assert meaning.place == Place.SLAB
    assert meaning.text == "in a slab of cache odd, outside of its objects"


def test_a_task_is_named_by_its_command(hand: Hand) -> None:
    hand.cache("task_struct", 512)
    task = hand.put("task_struct", hand.object("task_struct", 1), {"pid": 7, "tgid": 7, "comm": b"ba\nsh\0left"})
    assert told(hand, task)[0].text == f"allocated task_struct {task:#x}: pid 7 (ba\\x0ash)"


def test_symbols_with_their_size_and_only_inside_of_the_image(hand: Hand) -> None:
    first = BASE + 100 * PAGE
    symbols = {"_text": first, "do_it": first + 0x40, "data": first + 0x100, "_end": first + 0x200}
    hand.machine.symbols.update(symbols)
    inside, outside = told(hand, first + 0x48, first + 0x200)
    assert (inside.place, inside.text) == (Place.SYMBOL, "do_it+0x8/0xc0")
    assert outside.place != Place.SYMBOL


def test_struct_pages_and_pages_of_the_direct_map_are_told_apart(hand: Hand) -> None:
    frame = BASE + 90 * PAGE
    page = hand.page_of(frame)
    hand.machine.set("page", page, "page_type", TABLE)
    of_page, of_frame = told(hand, page, frame + 0x123)
    assert (of_page.place, of_page.text) == (Place.PAGE, "struct page of frame 0x5a: page tables")
    assert (of_frame.place, of_frame.text) == (Place.FRAME, "in frame 0x5a: page tables")
    assert (of_page.object, of_page.struct) == (page, "page")


@pytest.mark.parametrize(
    ("value", "place", "text"),
    [
        (0, Place.NUMBER, ""),
        (0xFFFF, Place.NUMBER, ""),
        ((1 << 64) - 22, Place.ERROR, "ERR_PTR(-EINVAL)"),
        ((1 << 64) - 1, Place.ERROR, "-1, or ERR_PTR(-EPERM)"),
        (0xDEAD000000000100, Place.POISON, "LIST_POISON1: next of a list element that was removed"),
        (0xDEAD000000000122, Place.POISON, "LIST_POISON2: prev of a list element that was removed"),
        (0xDEAD000000000108, Place.POISON, "LIST_POISON1 + 0x8"),
        (
            0x6B6B6B6B6B6B6B6B,
            Place.POISON,
            "POISON_FREE, what freed objects are filled with: a use after free",
        ),
        (0x6F77206F6C6C6568, Place.TEXT, 'the text "hello wo", no address'),
        (0x7FFF_0000_0000_0000, Place.NON_CANONICAL, "non-canonical: no address on this CPU"),
        (0xFFFF_F000_0000_0000, Place.UNMAPPED, "an address of the kernel's half that no page table maps"),
        (0x7F00_0000_1000, Place.USER, ""),
    ],
)
def test_values_that_lead_to_nothing(hand: Hand, value: int, place: Place, text: str) -> None:
    (meaning,) = told(hand, value)
    assert (meaning.place, meaning.text) == (place, text)


def test_any_words_at_all_are_told_in_any_number(hand: Hand) -> None:
    values = np.random.default_rng(7).integers(0, 1 << 64, 4096, np.uint64)
    values[::3] = BASE + values[::3] % np.uint64(128 * PAGE)
    meanings = explain(hand.surroundings(), values, 0)
    assert [meaning.value for meaning in meanings] == values.tolist()
    assert all(meaning.text.isprintable() for meaning in meanings)
