"""The address spaces of files, and the inodes that lead to them."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import LINUX, PAGE, Machine, circular_list

from vmaforensics.columns.types import U64
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.reverse_maps.inodes import inode_mappings
from vmaforensics.views.reverse_maps.mappings import read_mappings, root_slots

STRUCTS = LINUX | {
    "address_space": "host:* i_mmap_rwsem:rw_semaphore i_mmap:rb_root_cached",
    "inode": "i_mode:u16 i_sb:* i_mapping:* i_sb_list:list_head",
    "super_block": "s_list:list_head s_inodes:list_head s_magic:u64",
    "dentry": "d_hash:hlist_node d_inode:*",
}


def words(*values: int) -> U64:
    return np.array(values, np.uint64)


@pytest.fixture
def machine() -> Machine:
    return Machine(STRUCTS)


def file(machine: Machine) -> tuple[int, int]:
    """An inode and its address_space."""
    mapping = machine.put("address_space")
    return machine.put("inode", {"i_mapping": mapping}), mapping


def super_blocks(machine: Machine, *inodes: list[int]) -> list[int]:
    """``super_blocks`` with a super block for each list of inodes."""
    head = machine.put("list_head")
    machine.symbols["super_blocks"] = head
    blocks = [machine.put("super_block") for _ in inodes]
    circular_list(machine, head, *(machine.at("super_block", block, "s_list") for block in blocks))
    for block, own in zip(blocks, inodes, strict=True):
        for inode in own:
            machine.word(machine.at("inode", inode, "i_sb"), block)  # inode_init_always, fs/inode.c
        links = [machine.at("inode", inode, "i_sb_list") for inode in own]
        circular_list(machine, machine.at("super_block", block, "s_inodes"), *links)
    return blocks


def test_address_spaces_are_read_with_the_root_of_their_tree(machine: Machine) -> None:
    mapped = machine.put("address_space", {"i_mmap.rb_root.rb_node": 0xFFFF_8880_0000_1000})
    idle = machine.put("address_space", {"i_mmap_rwsem.count.counter": 1})
    kernel = machine.kernel()
    rows = read_mappings(kernel, words(mapped, idle), ProblemLog(), mapped=False)
    assert rows.root.tolist() == [0xFFFF_8880_0000_1000, 0]
    assert rows.held.tolist() == [False, True]
    assert rows.whole.tolist() == [True, True]
    assert read_mappings(kernel, words(mapped, idle), ProblemLog(), mapped=True).mapping.tolist() == [mapped]
    slot = machine.at("address_space", mapped, "i_mmap.rb_root.rb_node")
    assert root_slots(kernel, rows.mapping).tolist()[0] == slot


def test_an_address_space_that_is_not_in_the_image_is_a_problem_if_the_file_is_in_use(machine: Machine) -> None:
    gone = machine.room(PAGE, PAGE)
    machine.drop(gone)
    log = ProblemLog()
    rows = read_mappings(machine.kernel(), words(gone), log, mapped=False)
    assert (rows.ok.tolist(), rows.whole.tolist()) == ([False], [False])
    assert log.table().problem.tolist() == [Problem.UNREADABLE]
    assert len(read_mappings(machine.kernel(), words(gone), log, mapped=True)) == 0
    assert len(log.table()) == 1


def test_inodes_of_every_super_block_are_found(machine: Machine) -> None:
    files = [file(machine) for _ in range(5)]
    inodes = [inode for inode, _ in files]
    super_blocks(machine, inodes[:3], [], inodes[3:])
    found = inode_mappings(machine.kernel(), ProblemLog())
    assert found.tolist() == sorted(mapping for _, mapping in files)


def test_a_broken_list_of_inodes_is_followed_from_its_other_end() -> None:
    machine = Machine(STRUCTS, pages=256)
    files = [file(machine) for _ in range(2)]
    lost = machine.room(PAGE, PAGE)
    files += [file(machine) for _ in range(2)]
    inodes = [inode for inode, _ in files]
    [block] = super_blocks(machine, [*inodes[:2], *inodes[2:]])
    hole = machine.at("inode", lost, "i_sb_list")
    machine.word(machine.at("inode", inodes[1], "i_sb_list"), hole)
    machine.word(machine.at("inode", inodes[2], "i_sb_list") + 8, hole)
    machine.drop(lost)
    log = ProblemLog()
    found = inode_mappings(machine.kernel(), log)
    assert found.tolist() == sorted(mapping for _, mapping in files)
    assert log.table().where.tolist() == [hole]
    assert block


def test_without_the_symbol_of_super_blocks_no_inode_is_found_and_it_is_said(machine: Machine) -> None:
    kernel = machine.kernel()
    assert len(inode_mappings(kernel, ProblemLog())) == 0
    assert "super_blocks" in kernel.identity.problems[0]
    inode_mappings(kernel, ProblemLog())
    assert len(kernel.identity.problems) == 1
