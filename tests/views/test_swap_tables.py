"""Tables of clusters that count slots of swap, in a memory made by hand."""

from __future__ import annotations

import numpy as np
from handmade import BASE, CONSTANTS, LINUX, PAGE, Machine

from vmaforensics.views.pages.swap_slots import SwapSlots, disagreeing
from vmaforensics.views.pages.swap_tables import has_tables, read_tables, table_frames

STRUCTS = LINUX | {
    "swap_info_struct": "max:u32 cluster_info:*",
    "swap_cluster_info": "count:u16 table:* extend_table:* list:list_head",
    "swap_table": "entries:u64[8]",
}
SHADOW, FRAME, BAD = 1, 2, (1 << 64) - 8


def made() -> tuple[Machine, int]:
    """Two clusters of eight slots each, the second of which was never used; a third lies behind the end."""
    machine = Machine(STRUCTS, CONSTANTS)
    clusters = machine.room(3 * 64)
    size = machine.kernel().sizeof("swap_cluster_info")
    info = machine.put("swap_info_struct", {"max": 16, "cluster_info": clusters})
    table, extended = machine.room(64), machine.room(32)
    for slot, word in enumerate(
        (0, BAD, 1 << 60 | SHADOW, 2 << 60 | 0x1234 << 2 | FRAME, 15 << 60 | SHADOW, 1 << 59 | SHADOW)
    ):
        machine.word(table + 8 * slot, word)
    machine.write(extended + 4 * 4, (300).to_bytes(4, "little"))
    machine.word(clusters + machine.kernel().offset("swap_cluster_info", "table"), table)
    machine.word(clusters + machine.kernel().offset("swap_cluster_info", "extend_table"), extended)
    machine.word(clusters + 2 * size + machine.kernel().offset("swap_cluster_info", "table"), table)
    return machine, info


def test_a_table_says_who_holds_each_slot_and_which_page_is_its_copy() -> None:
    machine, info = made()
    kernel = machine.kernel()
    assert has_tables(kernel)
    slots, whole = read_tables(kernel, np.array([info], np.uint64))
    assert whole
    assert slots.offset.tolist() == [2, 3, 4, 5]
    assert slots.holders.tolist() == [1, 2, 300, 0]
    assert slots.cached.tolist() == [False, True, False, False]
    assert slots.frame.tolist() == [0, 0x1234, 0, 0]


def test_the_frames_of_tables_are_known_and_there_are_none_without_swap() -> None:
    machine, info = made()
    assert table_frames(machine.kernel()).tolist() == []
    pointers, count = machine.room(8), machine.room(4)
    machine.word(pointers, info)
    machine.write(count, (1).to_bytes(4, "little"))
    machine.symbols |= {"swap_info": pointers, "nr_swapfiles": count}
    kernel = machine.kernel()
    clusters = kernel.gather_member("swap_info_struct", "cluster_info", np.array([info], np.uint64))[0]
    (table,) = kernel.gather_member("swap_cluster_info", "table", clusters)[0].tolist()
    assert table_frames(kernel).tolist() == [(table - BASE) // PAGE]  # the third cluster lies behind the end


def test_a_table_that_is_not_in_the_image_is_told() -> None:
    machine, info = made()
    kernel = machine.kernel()
    slots, _ = read_tables(kernel, np.array([info], np.uint64))
    machine.drop(kernel.gather_member("swap_info_struct", "cluster_info", np.array([info], np.uint64))[0].tolist()[0])
    _, whole = read_tables(machine.kernel(), np.array([info], np.uint64))
    assert len(slots.offset) == 4
    assert not whole


def test_where_files_count_alike_only_too_few_are_told() -> None:
    slots = SwapSlots.of(place=[1, 2, 3, 4], word=[1, 1, 1, 1], entries=[0, 1, 2, 2], least=[True, True, True, False])
    assert disagreeing(slots).tolist() == [False, False, True, True]
