"""Where objects live: what a pointer of a kind may lead to, by struct page, and how walks go by it."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE, LINUX_5_10, PAGE, circular_list

from views.handmade_slab import ORDER_0, SIZE, STRUCTS, Hand, problems_of
from vmaforensics.kernel.space.kernel_space import KernelSpace, LinearPiece
from vmaforensics.views.indices.maple import walk_maple
from vmaforensics.views.indices.vma_list import walk_list
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mms import Mms, read_mms
from vmaforensics.views.processes.tasks import walk_tasks
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.homes import FILE, INODE, MM, VMA, Homes, Kind

RESERVED = 14  # bit number
VMAS, OTHERS, FREE, BOOT = (BASE + pfn * PAGE for pfn in (20, 21, 22, 23))


def machine(structs: dict[str, str] = STRUCTS) -> Hand:
    """Frame 20 is a slab of VMAs, 21 one of larger objects, 22 nothing, 23 reserved."""
    hand = Hand(structs, PG_reserved=RESERVED)
    hand.slab(20)
    hand.slab(21, cache=hand.new_cache(None, size=1024, offset=8, oo=4), objects=4)
    hand.machine.set("page", hand.vmemmap + 64 * 23, "flags", 1 << RESERVED)
    return hand


def admits(hand: Hand, kind: Kind, *addresses: int) -> list[bool]:
    found: list[bool] = hand.kernel().shared(Homes).admits(kind, np.array(addresses, np.uint64)).tolist()
    return found


def test_an_object_of_its_cache() -> None:
    assert admits(machine(), VMA, VMAS, VMAS + SIZE, VMAS + 7 * SIZE) == [True] * 3


def test_off_the_boundary_of_an_object() -> None:
    assert admits(machine(), VMA, VMAS + 8, VMAS + SIZE - 8) == [False] * 2


def test_behind_the_last_object() -> None:
    hand = machine()
    hand.slab(20, objects=5)
    assert admits(hand, VMA, VMAS + 4 * SIZE, VMAS + 5 * SIZE) == [True, False]


def test_before_the_first_object_of_a_cache_with_red_zones() -> None:
    hand = machine()
    hand.machine.set("kmem_cache", hand.cache, "red_left_pad", 64)
    assert admits(hand, VMA, VMAS, VMAS + 64) == [False, True]


def test_a_slab_of_other_objects_and_a_page_of_none() -> None:
    assert admits(machine(), VMA, OTHERS, FREE) == [False] * 2


def test_a_slab_of_several_pages() -> None:
    hand = machine()
    hand.slab(24, objects=2 * ORDER_0)
    hand.machine.set("page", hand.vmemmap + 64 * 25, "compound_head", hand.vmemmap + 64 * 24 + 1)
    assert admits(hand, VMA, BASE + 25 * PAGE, BASE + 25 * PAGE + 8) == [True, False]


def test_what_is_not_in_the_image_is_never_called_stale() -> None:
    hand = machine()
    hand.machine.drop(hand.vmemmap)
    assert admits(hand, VMA, VMAS + 8, OTHERS, FREE) == [True] * 3


def test_a_cache_that_is_not_in_the_image() -> None:
    hand = machine()
    hand.slab(21, cache=BASE + 4096 * PAGE)
    assert admits(hand, VMA, OTHERS) == [True]


def test_an_address_that_nothing_maps() -> None:
    assert admits(machine(), VMA, BASE + 4096 * PAGE, 0x1000) == [True] * 2


def test_merged_caches_are_one() -> None:
    hand = machine()
    for kind in (ObjectKind.ANON_VMA, ObjectKind.VMA):
        at = hand.machine.symbols[kind.symbol] = hand.machine.room(8)
        hand.machine.word(at, hand.cache)
    assert admits(hand, Kind("vm_area_struct", (ObjectKind.ANON_VMA.symbol,)), VMAS, OTHERS) == [True, False]


def test_a_kind_whose_cache_has_no_name_may_be_any_object_it_fits_into() -> None:
    hand = machine(STRUCTS | {"file": "room:u8[700]"})
    assert admits(hand, FILE, OTHERS + 1024, OTHERS + 1032, VMAS, FREE) == [True, False, False, False]


def test_an_inode_is_part_of_an_object() -> None:
    hand = machine(STRUCTS | {"inode": "room:u8[600]"})
    assert admits(hand, INODE, OTHERS + 64, OTHERS + 424, OTHERS + 432, VMAS) == [True, True, False, False]


def test_static_objects_are_in_the_image_of_the_kernel() -> None:
    """init_mm is; no VMA is. Vmemmap is reserved as well."""
    image = 0xFFFF_FFFF_8100_0000
    kernel = machine().kernel()
    size = 64 * PAGE
    pieces = [LinearPiece(BASE, BASE + size - 1, 0), LinearPiece(image, image + size - 1, 0)]
    kernel.space = KernelSpace.linear(kernel.memory, pieces)
    homes = kernel.shared(Homes)
    places = np.array([image + (BOOT - BASE) + 8, image + (FREE - BASE), BOOT + 8], np.uint64)
    assert homes.admits(MM, places).tolist() == [True, False, False]
    assert homes.admits(VMA, places).tolist() == [False, False, False]


def test_an_object_that_kfence_watches_is_at_an_end_of_its_page() -> None:
    hand = machine()
    hand.slab(24, objects=1)
    assert admits(hand, VMA, BASE + 25 * PAGE - 200) == [True]


def test_most_objects_elsewhere_prove_the_account_wrong() -> None:
    """One word in the cache or in the kernel's variables would cost every object otherwise."""
    hand = machine()
    hand.machine.set("kmem_cache", hand.cache, "size", SIZE + 8)
    kernel = hand.kernel()
    homes = kernel.shared(Homes)
    vmas = np.array([VMAS + at * SIZE for at in range(8)] * 2, np.uint64)
    assert homes.admits(VMA, vmas).all()
    assert "vm_area_struct" in kernel.identity.problems[-1]
    assert homes.admits(VMA, np.array([FREE], np.uint64)).tolist() == [True]


def test_a_kernel_that_says_nothing_of_its_pages() -> None:
    hand = Hand()  # no number of PG_reserved
    assert admits(hand, VMA, VMAS + 8, FREE) == [True] * 2


def mm_with_leaf(hand: Hand, *vmas: int) -> Mms:
    """An mm whose maple tree is a leaf that leads to ``vmas``, a page each."""
    pivots = [(at + 1) * PAGE - 1 for at in range(len(vmas))]
    mm = hand.machine.put("mm_struct", {"mm_users.counter": 1})
    leaf = BASE + 24 * PAGE
    hand.slab(24, cache=hand.new_cache(ObjectKind.MAPLE_NODE, size=256, offset=8, oo=16), objects=16)
    hand.machine.set("maple_range_64", leaf, "pivot", [*pivots, *[0] * (15 - len(pivots))])
    hand.machine.set("maple_range_64", leaf, "slot", [*vmas, *[0] * (16 - len(vmas))])
    hand.machine.set("maple_range_64", leaf, "meta.end", len(vmas) - 1)
    hand.machine.word(leaf, hand.machine.at("mm_struct", mm, "mm_mt") | 1)
    hand.machine.set("mm_struct", mm, "mm_mt.ma_root", leaf | 1 << 3 | 6)
    kernel = hand.kernel()
    rows, ok = kernel.gather(Mms, np.array([mm], np.uint64))
    return rows.replace(mm=np.array([mm], np.uint64), ok=ok)


@pytest.mark.parametrize("elsewhere", [FREE, OTHERS, OTHERS + 8])
def test_a_leaf_that_leads_into_foreign_memory(elsewhere: int) -> None:
    hand = machine()
    mms = mm_with_leaf(hand, VMAS, elsewhere, VMAS + SIZE)
    log = ProblemLog()
    found = walk_maple(hand.kernel(), mms, log)
    assert found is not None
    assert found.entries.vma.tolist() == [VMAS, VMAS + SIZE]
    assert [problem for problem, _ in problems_of(log)] == [Problem.STALE]
    assert log.table().value.tolist() == [elsewhere]


def test_a_copy_that_names_its_mm_is_told_of_and_read() -> None:
    """A VMA made by hand outside of the cache: the kernel uses it."""
    hand = machine()
    mms = mm_with_leaf(hand, VMAS, FREE)
    hand.machine.set("vm_area_struct", FREE, "vm_mm", int(mms.mm[0]))
    log = ProblemLog()
    found = walk_maple(hand.kernel(), mms, log)
    assert found is not None
    assert found.entries.vma.tolist() == [VMAS, FREE]
    assert [problem for problem, _ in problems_of(log)] == [Problem.STALE]


OLD = STRUCTS | {name: LINUX_5_10[name] for name in ("mm_struct", "mm_context_t", "vm_area_struct")}


@pytest.mark.parametrize("forged", [False, True])
def test_a_list_ends_where_foreign_memory_begins(forged: bool) -> None:
    hand = machine(OLD)
    mm = hand.machine.put("mm_struct", {"mmap": VMAS})
    hand.machine.set("vm_area_struct", VMAS, "vm_next", FREE)
    hand.machine.set("vm_area_struct", FREE, "vm_next", VMAS + SIZE)
    if forged:
        hand.machine.set("vm_area_struct", FREE, "vm_mm", mm)
    kernel, log = hand.kernel(), ProblemLog()
    rows, ok = kernel.gather(Mms, np.array([mm], np.uint64))
    found = walk_list(kernel, rows.replace(mm=np.array([mm], np.uint64), ok=ok), np.zeros(0, np.uint64), log)
    assert found is not None
    assert found.vma.tolist() == ([VMAS, FREE, VMAS + SIZE] if forged else [VMAS])
    place = hand.machine.at("vm_area_struct", VMAS, "vm_next")
    assert problems_of(log) == [(Problem.STALE, place)]


@pytest.mark.parametrize("forged", [False, True])
def test_the_task_list_goes_round_what_is_no_task(forged: bool) -> None:
    """Its other direction leads to the tasks behind the break."""
    structs = STRUCTS | {"task_struct": STRUCTS["task_struct"]}
    hand = machine(structs)
    tasks = BASE + 30 * PAGE
    hand.slab(30, cache=hand.new_cache(ObjectKind.TASK, size=SIZE, offset=8, oo=ORDER_0))
    first = hand.machine.symbols["init_task"] = BOOT
    ring = [first, tasks, FREE, tasks + SIZE]
    circular_list(hand.machine, *(hand.machine.at("task_struct", task, "tasks") for task in ring))
    for number, task in enumerate(ring):
        hand.machine.set("task_struct", task, "pid", number)
    if not forged:
        for path in ("tasks.next", "tasks.prev"):
            hand.machine.set("task_struct", FREE, path, 0x1234)
    log = ProblemLog()
    found = walk_tasks(hand.kernel(), log)
    assert sorted(found.task.tolist()) == sorted([tasks, tasks + SIZE, *([FREE] if forged else [])])
    assert (Problem.STALE in [problem for problem, _ in problems_of(log)]) != forged


def test_an_mm_in_foreign_memory_is_read_only_if_it_names_its_task() -> None:
    structs = STRUCTS | {"mm_struct": STRUCTS["mm_struct"] + " owner:*"}
    hand = machine(structs)
    mms = BASE + 30 * PAGE
    hand.slab(30, cache=hand.new_cache(ObjectKind.MM, size=2048, offset=8, oo=2), objects=2)
    task = hand.machine.symbols["init_task"] = BOOT
    other = hand.machine.put("task_struct", {"pid": 1, "mm": mms})
    wrong = hand.machine.put("task_struct", {"pid": 2, "mm": FREE})
    copied = hand.machine.put("task_struct", {"pid": 3, "mm": OTHERS})
    hand.machine.set("mm_struct", OTHERS, "owner", copied)
    circular_list(
        hand.machine, *(hand.machine.at("task_struct", each, "tasks") for each in (task, other, wrong, copied))
    )
    kernel, log = hand.kernel(), ProblemLog()
    found = read_mms(kernel, walk_tasks(kernel, ProblemLog()), log)
    assert sorted(found.mm.tolist()) == sorted([mms, OTHERS])
    assert [problem for problem, _ in problems_of(log)] == [Problem.STALE] * 2
