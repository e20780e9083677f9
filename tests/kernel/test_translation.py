"""Which page tables, or what in their place, kernel addresses are translated by."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE, LINUX, Machine, Symbols, circular_list

from vmaforensics.arch.x86_64.architecture import X86_64
from vmaforensics.kernel.locate import Located
from vmaforensics.kernel.space.translation import Translation, kernel_space, translate_through_a_process
from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo, parse

from .build import PAGE, Tables

ARCH = X86_64()
TEXT = 0xFFFF_FFFF_8100_0000  # 16 MiB into the mapping of the kernel image
OFFSET = TEXT - 20 * PAGE  # of an image at physical 20 * PAGE
ROOT = PAGE + OFFSET  # virtual address of the top-level table, which is frame 1
PRESENT = 1
INIT_TASK = TEXT + 0x100


def tables_of(levels: int = 4, *, text: int = 20) -> Tables:
    """Tables that map :data:`TEXT` to a frame, which is that of the image by default."""
    tables = Tables()
    table = 1
    for slot in (511, *((511,) if levels == 5 else ()), 510, 8):
        table = tables.down(table, slot)
    tables.entry(table, 0, text * PAGE | PRESENT)
    return tables


def space_of(
    tables: Tables, symbols: dict[str, int], info: Vmcoreinfo | None = None, lost: tuple[int, ...] = (), ram: int = 64
) -> tuple[Translation, list[str]]:
    problems: list[str] = []
    located = Located(offset=OFFSET, symbols=Symbols(symbols), symbols_source="", info=info)
    memory = tables.memory(ram=ram, lost=lost, extra={20: bytes(PAGE), 21: bytes(PAGE)})
    return kernel_space(memory, ARCH, located, lambda name, size: None, 0, memory.ranges.tolist(), problems), problems


@pytest.mark.parametrize("levels", [4, 5])
def test_the_levels_are_those_by_which_the_kernel_lies_where_it_does(levels: int) -> None:
    found, problems = space_of(tables_of(levels), {"init_top_pgt": ROOT, "init_task": INIT_TASK})
    assert found.root == PAGE
    assert found.arch.levels == levels
    assert found.source == "page tables at physical 0x1000"
    assert problems == []


@pytest.mark.parametrize("bit", [47, 51])
def test_the_bit_of_encryption_is_told_by_entries_that_all_have_it(bit: int) -> None:
    tables = tables_of()
    tables.down(1, 273)  # the direct map
    for entries in tables.pages.values():
        for slot in entries:
            entries[slot] |= 1 << bit
    found, problems = space_of(tables, {"init_top_pgt": ROOT, "init_task": INIT_TASK})
    assert (found.root, found.arch.levels, problems) == (PAGE, 4, [])
    assert int(found.space.translate(np.array([INIT_TASK], np.uint64)).pa[0]) == INIT_TASK - OFFSET


def test_a_bit_that_one_entry_lacks_is_part_of_an_address() -> None:
    tables = tables_of()
    tables.entry(1, 273, 1 << 51 | 0x67)
    found, _ = space_of(tables, {"init_top_pgt": ROOT, "init_task": INIT_TASK})
    assert found.arch == ARCH.isolated(tables.memory(), PAGE)


def test_where_no_symbol_names_the_table_vmcoreinfo_does() -> None:
    info = parse(f"SYMBOL(swapper_pg_dir)={ROOT:x}\n".encode(), "")
    found, problems = space_of(tables_of(), {"_stext": TEXT}, info)
    assert found.root == PAGE
    assert problems == []


@pytest.mark.parametrize(
    ("text", "symbols", "lost"),
    [
        (21, {"init_top_pgt": ROOT, "init_task": INIT_TASK}, ()),  # they map another frame: not this kernel's
        (20, {"init_top_pgt": ROOT, "init_task": INIT_TASK}, (1,)),  # the root is not in the dump
        (20, {"init_task": INIT_TASK}, ()),  # nothing names the root
        (20, {"init_top_pgt": ROOT}, ()),  # nothing to prove them by
    ],
)
def test_tables_that_do_not_map_the_kernel_are_not_used(
    text: int, symbols: dict[str, int], lost: tuple[int, ...]
) -> None:
    found, (problem,) = space_of(tables_of(text=text), symbols, lost=lost)
    assert found.root is None
    assert found.source == "linear mappings"
    assert "does not map the kernel" in problem
    # The image, and all RAM at the start of the direct map: 16 TiB beyond the hole of hypervisors without KASLR.
    at = np.array([INIT_TASK, 0xFFFF_8880_0000_0000 + 3 * PAGE, 0xFFFF_8880_0000_0000 + 64 * PAGE], np.uint64)
    here = found.space.translate(at)
    assert here.mapped.tolist() == [True, True, False]
    assert here.pa[:2].tolist() == [INIT_TASK - OFFSET, 3 * PAGE]


def test_tables_below_the_root_that_are_not_in_the_dump_are_counted() -> None:
    tables = tables_of()
    gone = tables.down(1, 300)
    found, (problem,) = space_of(tables, {"init_top_pgt": ROOT, "init_task": INIT_TASK}, lost=(gone,))
    assert found.root == PAGE
    assert problem.startswith("1 page-table pages of the kernel are not in the dump")
    assert hex(0xFFFF_0000_0000_0000 | 300 << 39) in problem


def test_a_walk_cut_short_before_it_came_to_the_kernel_is_not_used() -> None:
    tables = tables_of()
    for slot in range(256, 300):  # more tables than the image has pages
        tables.entry(1, slot, (100 + slot) * PAGE | 0x67)
    found, (problem,) = space_of(tables, {"init_top_pgt": ROOT, "init_task": INIT_TASK}, ram=24)
    assert found.root is None
    assert "only linear mappings" in problem


# Through a process ---------------------------------------------------------------------------------------


class Processes(Machine):
    """init_task and two processes, of which the second has page tables that map all of this memory."""

    def __init__(self) -> None:
        super().__init__(LINUX)
        self.pgd = self.room(PAGE, PAGE)
        middle, pages = self.room(PAGE, PAGE), self.room(PAGE, PAGE)
        self.word(self.pgd + 8 * (BASE >> 39 & 511), middle - BASE | 0x67)
        self.word(middle, pages - BASE | 0x67)
        self.word(pages, 0xE7)  # 2 MiB from physical 0
        self.mms = [self.put("mm_struct", {"pgd": pgd}) for pgd in (self.room(PAGE, PAGE), self.pgd)]
        self.tasks = [self.put("task_struct", {"mm": mm}) for mm in (0, *self.mms)]
        circular_list(self, *(self.at("task_struct", task, "tasks") for task in self.tasks))
        self.symbols["init_task"] = self.tasks[0]


def test_the_first_process_whose_tables_map_init_task_is_taken() -> None:
    machine = Processes()
    kernel = machine.kernel()
    translate_through_a_process(kernel, BASE)
    assert kernel.root == machine.pgd - BASE
    assert kernel.identity.translation_source == f"a process's page tables at physical {machine.pgd - BASE:#x}"
    assert kernel.space.translate(np.array([BASE + (1 << 20)], np.uint64)).mapped.tolist() == [True]


def test_tables_of_another_kernel_are_not_taken() -> None:
    kernel = Processes().kernel()
    before = kernel.identity.translation_source
    translate_through_a_process(kernel, BASE - PAGE)  # init_task lies a page further on in memory
    assert kernel.identity.translation_source == before


@pytest.mark.parametrize("lost", [1, 2])
def test_a_broken_task_list_ends_the_search(lost: int) -> None:
    machine = Processes()
    machine.set("task_struct", machine.tasks[lost - 1], "tasks.next", 0xFFFF_9000_0000_0000)
    kernel = machine.kernel()
    before = kernel.identity.translation_source
    translate_through_a_process(kernel, BASE)
    assert kernel.identity.translation_source == before


def test_without_init_task_nothing_is_tried() -> None:
    machine = Processes()
    del machine.symbols["init_task"]
    kernel = machine.kernel()
    translate_through_a_process(kernel, BASE)
    assert kernel.identity.translation_source == ""
