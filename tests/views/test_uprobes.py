"""The tree of registered uprobes."""

from __future__ import annotations

import pytest
from handmade import PAGE, Machine

from vmaforensics.views.pages.uprobes import ReadUprobes, read_uprobes

STRUCTS = {
    "rb_node": "__rb_parent_color:u64 rb_right:* rb_left:*",
    "uprobe": "rb_node:rb_node ref:i32 inode:* offset:i64",
}


@pytest.fixture
def machine() -> Machine:
    made = Machine(STRUCTS)
    made.symbols["uprobes_tree"] = made.room(8)
    return made


def probe(machine: Machine, inode: int, offset: int, *, left: int = 0, right: int = 0) -> int:
    members = {"inode": inode, "offset": offset, "rb_node.rb_left": left, "rb_node.rb_right": right}
    return machine.put("uprobe", members)


def read(machine: Machine, root: int = 0) -> ReadUprobes:
    machine.word(machine.symbols["uprobes_tree"], root)
    return read_uprobes(machine.kernel())


def test_no_probe_is_registered(machine: Machine) -> None:
    found = read(machine)
    assert (len(found.probes), found.whole) == (0, True)


def test_probes_come_by_file_and_offset(machine: Machine) -> None:
    low, high = probe(machine, 0x1000, 0x40), probe(machine, 0x2000, 0x10)
    root = probe(machine, 0x1000, 0x80, left=low, right=high)
    found = read(machine, root)
    assert found.whole
    assert found.probes.uprobe.tolist() == [low, root, high]
    assert found.probes.offset.tolist() == [0x40, 0x80, 0x10]


def test_a_tree_that_leads_back_into_itself_is_not_whole(machine: Machine) -> None:
    root = probe(machine, 0x1000, 0x80)
    machine.set("uprobe", root, "rb_node.rb_left", root)
    found = read(machine, root)
    assert (found.probes.uprobe.tolist(), found.whole) == ([root], False)


def test_a_node_that_is_no_pointer_or_not_in_the_image_is_missed(machine: Machine) -> None:
    gone = machine.room(PAGE, PAGE)
    machine.drop(gone)
    for wrong in (0x1234, gone):
        root = probe(machine, 0x1000, 0x80, right=wrong)
        found = read(machine, root)
        assert (found.probes.uprobe.tolist(), found.whole) == ([root], False)


def test_a_kernel_without_uprobes_is_not_whole() -> None:
    assert not read_uprobes(Machine(STRUCTS).kernel()).whole
    machine = Machine({"rb_node": STRUCTS["rb_node"]})
    machine.symbols["uprobes_tree"] = machine.room(8)
    assert not read_uprobes(machine.kernel()).whole
