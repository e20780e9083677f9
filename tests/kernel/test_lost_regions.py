"""Where KASLR put the kernel's maps of memory, where the variables that say so are lost."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE, LINUX, Machine
from support import Edit, Sample, needs_symbol

from vmaforensics.kernel.lost_regions import lost_regions

FRAMES = 0xFFFF_EA12_4000_0000  # what struct pages begin at
FLAGS = 0x1F  # of a section that is there (include/linux/mmzone.h)


@pytest.mark.parametrize("lost", ["dropped", "cleared"])
def test_the_list_of_tasks_tells_where_the_direct_map_begins(whole_kernel: Sample, lost: str) -> None:
    place = needs_symbol(whole_kernel, "page_offset_base")
    edit = Edit(whole_kernel.analysis)
    clean = edit.clean.kernel
    if lost == "dropped":
        edit.drop(place)
    else:
        edit.put(place, 0)
    found = edit.again()
    assert found.kernel.variable("page_offset_base", 8) == clean.variable("page_offset_base", 8)
    assert any("page_offset_base cannot be read" in text for text in found.kernel.identity.problems)
    assert np.array_equal(found.views.vmas.vma, edit.clean.views.vmas.vma)


def machine_with_sections() -> Machine:
    """A machine whose variables of both maps lie in a page of their own, and hold what they must."""
    machine = Machine(LINUX | {"mem_section": "section_mem_map:u64 usage:*"})
    for name, value in (("page_offset_base", BASE), ("vmemmap_base", FRAMES)):
        machine.symbols[name] = machine.room(8)
        machine.word(machine.symbols[name], value)
    section = machine.put("mem_section", {"section_mem_map": FRAMES | FLAGS})
    machine.symbols["mem_section"], root = machine.room(8), machine.room(8)
    machine.word(machine.symbols["mem_section"], root)
    machine.word(root, section)
    return machine


def told(machine: Machine, *, named: bool = False) -> tuple[dict[str, int], list[str]]:
    kernel = machine.kernel()
    problems: list[str] = []
    found = lost_regions(
        kernel.space, kernel.arch, kernel.symbols, kernel.types, kernel.variable, problems, named=named
    )
    return found, problems


def test_what_is_there_is_not_asked_for_twice() -> None:
    assert told(machine_with_sections()) == ({}, [])


def test_sections_of_memory_tell_where_struct_pages_begin() -> None:
    machine = machine_with_sections()
    machine.word(machine.symbols["vmemmap_base"], 1)
    found, problems = told(machine)
    assert found == {"vmemmap_base": FRAMES}
    assert [text.partition(" cannot")[0] for text in problems] == ["vmemmap_base"]


@pytest.mark.parametrize("word", [0, 1 << 63, 0xFFFF_FFFF_FFFF_F000, 0x1234])
def test_a_section_that_cannot_be_believed_tells_nothing(word: int) -> None:
    machine = machine_with_sections()
    machine.word(machine.symbols["vmemmap_base"], 1)
    machine.word(machine.symbols["mem_section"], word)
    found, problems = told(machine)
    assert found == {}
    assert "it is 0xffffea0000000000, where nothing moves it" in problems[0]


def test_what_has_lost_its_name_too_is_told_where_memory_is_laid_out() -> None:
    machine = machine_with_sections()
    del machine.symbols["vmemmap_base"]
    assert told(machine)[0] == {"vmemmap_base": FRAMES}
    assert told(machine, named=True) == ({}, [])


def test_a_kernel_without_such_variables_has_nothing_lost() -> None:
    machine = machine_with_sections()
    for name in ("page_offset_base", "vmemmap_base", "mem_section"):
        del machine.symbols[name]
    assert told(machine) == ({}, [])
