"""A pointer that is found in no object that a register leads to: the task, its stack, and what these lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from checks.handmade_views import Process, views_of
from handmade import Machine

from vmaforensics.crash.trail.further import tags_of
from vmaforensics.crash.trail.pointers import follow_pointer
from vmaforensics.crash.trail.word import Sure

from .stage import STRUCTS, UNTYPED, Stage, complaint
from .test_trails import OOPS, word

if TYPE_CHECKING:
    from vmaforensics.crash.complaints import Complaint

_OWN = STRUCTS | {
    "thread_struct": "sp:u64 cr2:u64",
    "task_struct": f"{STRUCTS['task_struct']} thread:thread_struct",
    "files_struct": "count:u64 fdt:*",
}


def _fault(wrong: int, registers: str = "", sp: int = 0xFFFFD13D806EFCB8) -> Complaint:
    text = OOPS.replace("ffffd13d806efcb8", f"{sp:016x}").format(
        title=f"BUG: unable to handle page fault for address: {wrong:016x}",
        registers=f"RAX: {wrong:016x} {registers}".strip(),
    )
    return complaint(text)


def _stage(machine: Machine, task: int, objects: list[tuple[int, int, str]]) -> Stage:
    views = views_of(Process(pid=252, comm=b"cat", vmas=["1000-2000 r-xp"]))
    views.tasks.task[:] = task
    size = machine.kernel().sizeof("task_struct")
    return Stage(machine, [(task, size, "task_struct"), *objects], views)


def test_the_task_that_died_is_searched_but_not_what_its_cpu_saved_of_the_fault() -> None:
    machine = Machine(_OWN)
    files = machine.put("files_struct")
    wrong = files ^ 1 << 43
    task = machine.put("task_struct", {"pid": 252, "files": wrong, "thread.cr2": wrong})
    stage = _stage(machine, task, [(files, 16, "files_struct")])
    found = word(follow_pointer(stage, _fault(wrong)).words)
    assert found.address == machine.at("task_struct", task, "files")
    assert (found.expected, found.sure) == (hex(files), Sure.CERTAIN)


def test_what_words_of_the_stack_lead_to_is_searched() -> None:
    machine = Machine(_OWN)
    file, other = machine.put("file"), machine.put("task_struct")
    wrong = file ^ 1 << 41
    holder = machine.put("file", {"f_mapping": wrong})
    stack = machine.put("list_head", {"next": 1, "prev": holder})
    stage = _stage(machine, other, [(file, 64, "file"), (holder, machine.kernel().sizeof("file"), "file")])
    found = word(follow_pointer(stage, _fault(wrong, sp=stack)).words)
    assert found.address == machine.at("file", holder, "f_mapping")


def test_a_tree_keeps_flags_in_its_pointers_to_nodes() -> None:
    machine = Machine(_OWN)
    mm = machine.put("mm_struct")
    task = machine.put("task_struct", {"pid": 252, "mm": mm})
    node = 0xFFFF8CD3D7C35400
    wrong = node ^ 1 << 41
    machine.set("mm_struct", mm, "mm_mt.ma_root", wrong | 0x1E)
    stage = _stage(machine, task, [(mm, machine.kernel().sizeof("mm_struct"), "mm_struct"), (node, 256, "maple_node")])
    found = word(follow_pointer(stage, _fault(wrong)).words)
    assert (found.found, found.expected) == (hex(wrong | 0x1E), hex(node | 0x1E))


def test_untyped_objects_may_hold_copies_and_prove_nothing() -> None:
    machine = Machine(_OWN)
    wrong = 0xFFFF8ED3D7C35408
    copy = machine.put("files_struct", {"fdt": wrong})
    task = machine.put("task_struct", {"pid": 252, "files": copy})
    stage = _stage(machine, task, [(copy, 16, UNTYPED)])
    assert follow_pointer(stage, _fault(wrong)).words == []


def test_tag_bits_depend_on_what_a_pointer_can_lead_to() -> None:
    assert [tags_of(value) for value in (0xFFFF888000001200, 0xFFFF888000001208, 0xFFFF888000001203)] == [255, 7, 0]
    assert np.uint64(~tags_of(0x1200) % (1 << 64)) == np.uint64(0xFFFFFFFFFFFFFF00)
