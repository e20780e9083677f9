"""Chains of anon_vmas, and what they lead to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from handmade import LINUX, Machine, circular_list

from vmaforensics.columns.types import U64
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.reverse_maps.anon_vma_chains import Chains, read_anon_vmas, walk_chains
from vmaforensics.views.structures.address_set import AddressSet

STRUCTS = LINUX | {
    "anon_vma_chain": "vma:* anon_vma:* same_vma:list_head rb:rb_node rb_subtree_last:u64",
    "anon_vma": "root:* rwsem:rw_semaphore num_children:u64 num_active_vmas:u64 parent:* rb_root:rb_root_cached",
}
MM = 0xFFFF_8880_0000_4000


def words(*values: int) -> U64:
    return np.array(values, np.uint64)


@pytest.fixture
def machine() -> Machine:
    return Machine(STRUCTS)


def chained(machine: Machine, *anon_vmas: int) -> tuple[int, list[int]]:
    """A VMA with a link for each of ``anon_vmas``: its address, and those of the links."""
    vma = machine.put("vm_area_struct")
    links = [machine.put("anon_vma_chain", {"vma": vma, "anon_vma": anon_vma}) for anon_vma in anon_vmas]
    heads = [machine.at("vm_area_struct", vma, "anon_vma_chain")]
    circular_list(machine, *heads, *(machine.at("anon_vma_chain", link, "same_vma") for link in links))
    return vma, links


def walk(machine: Machine, *vmas: int, log: ProblemLog | None = None) -> Chains:
    mms = np.full(len(vmas), MM, np.uint64)
    return walk_chains(machine.kernel(), words(*vmas), mms, AddressSet(), ProblemLog() if log is None else log)


def test_an_empty_chain_has_no_links(machine: Machine) -> None:
    vma, _ = chained(machine)
    found = walk(machine, vma)
    assert len(found.links) == len(found.cut) == 0
    assert len(walk(machine).links) == 0


def test_every_link_of_a_chain_is_read(machine: Machine) -> None:
    vma, links = chained(machine, 0x1100, 0x1200)
    other, [lone] = chained(machine, 0x1300)
    rows = walk(machine, vma, other).links
    rows = rows.sort_by(rows.avc)
    assert rows.avc.tolist() == sorted([*links, lone])
    assert rows.vma.tolist() == rows.back.tolist() == [vma, vma, other]
    assert rows.anon_vma.tolist() == [0x1100, 0x1200, 0x1300]


def test_a_link_of_another_vma_keeps_what_it_says_itself(machine: Machine) -> None:
    vma, [link] = chained(machine, 0x1100)
    machine.set("anon_vma_chain", link, "vma", 0x7777)
    assert walk(machine, vma).links.back.tolist() == [0x7777]


def test_a_chain_that_leads_back_into_itself_is_cut(machine: Machine) -> None:
    vma, links = chained(machine, 0x1100, 0x1200)
    machine.set("anon_vma_chain", links[1], "same_vma.next", machine.at("anon_vma_chain", links[0], "same_vma"))
    log = ProblemLog()
    found = walk(machine, vma, log=log)
    assert found.links.avc.tolist() == links
    assert found.cut.tolist() == [vma]
    problems = log.table()
    assert (problems.problem.tolist(), problems.mm.tolist()) == ([Problem.CYCLE], [MM])
    assert problems.where.tolist() == [machine.at("anon_vma_chain", links[1], "same_vma")]


def test_a_chain_that_leads_into_that_of_another_vma_is_cut(machine: Machine) -> None:
    vma, links = chained(machine, 0x1100)
    other, [foreign] = chained(machine, 0x1200)
    head = machine.at("vm_area_struct", other, "anon_vma_chain")
    machine.word(head, machine.at("anon_vma_chain", links[0], "same_vma"))
    found = walk(machine, vma, other)
    assert found.links.avc.tolist() == links
    assert found.cut.tolist() == [other]
    assert foreign not in found.links.avc


@pytest.mark.parametrize(
    ("pointer", "problem"), [(0x1234_5678, Problem.NON_CANONICAL), (0xFFFF_8880_0000_0001, Problem.MISALIGNED)]
)
def test_a_pointer_that_cannot_be_one_cuts_the_chain(machine: Machine, pointer: int, problem: Problem) -> None:
    vma, [link] = chained(machine, 0x1100)
    machine.set("anon_vma_chain", link, "same_vma.next", pointer)
    log = ProblemLog()
    found = walk(machine, vma, log=log)
    assert found.links.avc.tolist() == [link]
    assert found.cut.tolist() == [vma]
    assert log.table().problem.tolist() == [problem]


def test_a_lost_link_cuts_the_chain(machine: Machine) -> None:
    machine = Machine(STRUCTS, pages=256)
    vma, [link] = chained(machine, 0x1100)
    far = machine.room(4096, 4096)
    machine.set("anon_vma_chain", link, "same_vma.next", far)
    machine.drop(far)
    log = ProblemLog()
    assert walk(machine, vma, log=log).cut.tolist() == [vma]
    assert log.table().problem.tolist() == [Problem.UNREADABLE]


def test_links_seen_before_are_not_followed_again(machine: Machine) -> None:
    vma, links = chained(machine, 0x1100)
    seen = AddressSet()
    kernel, mm = machine.kernel(), words(MM)
    assert walk_chains(kernel, words(vma), mm, seen, ProblemLog()).links.avc.tolist() == links
    assert len(walk_chains(kernel, words(vma), mm, seen, ProblemLog()).links) == 0


def test_anon_vmas_bring_their_root_and_parent(machine: Machine) -> None:
    root = machine.put("anon_vma", {"num_active_vmas": 1})
    machine.set("anon_vma", root, "root", root)
    machine.set("anon_vma", root, "parent", root)
    child = machine.put("anon_vma", {"root": root, "parent": root, "num_active_vmas": 2, "rwsem.count.counter": 1})
    log = ProblemLog()
    rows = read_anon_vmas(machine.kernel(), words(child, 0x1234, child | 4), AddressSet(), log)
    rows = rows.sort_by(rows.anon_vma)
    assert rows.anon_vma.tolist() == [root, child]
    assert rows.active.tolist() == [1, 2]
    assert rows.held.tolist() == [False, True]
    assert rows.whole.tolist() == [True, True]
    assert not len(log.table())


def test_what_has_another_root_than_its_child_leads_no_further(machine: Machine) -> None:
    line = [machine.put("anon_vma") for _ in range(8)]
    for child, parent in itertools.pairwise(line):
        machine.set("anon_vma", child, "root", child)
        machine.set("anon_vma", child, "parent", parent)
    rows = read_anon_vmas(machine.kernel(), words(line[0]), AddressSet(), ProblemLog())
    assert sorted(rows.anon_vma.tolist()) == line[:2]


def test_every_ancestor_is_read(machine: Machine) -> None:
    line = [machine.put("anon_vma") for _ in range(8)]
    for child, parent in itertools.pairwise([*line, line[-1]]):
        machine.set("anon_vma", child, "root", line[-1])
        machine.set("anon_vma", child, "parent", parent)
    rows = read_anon_vmas(machine.kernel(), words(line[0]), AddressSet(), ProblemLog())
    assert sorted(rows.anon_vma.tolist()) == line


def test_an_anon_vma_that_is_not_in_the_image_is_a_problem(machine: Machine) -> None:
    gone = machine.room(4096, 4096)
    machine.drop(gone)
    log = ProblemLog()
    rows = read_anon_vmas(machine.kernel(), words(gone), AddressSet(), log)
    assert (rows.ok.tolist(), rows.active.tolist()) == ([False], [-1])
    assert log.table().where.tolist() == [gone]


def test_where_nothing_counts_the_vmas_the_number_is_minus_one() -> None:
    machine = Machine(STRUCTS | {"anon_vma": "root:* rwsem:rw_semaphore degree:u32 parent:* rb_root:rb_root_cached"})
    own = machine.put("anon_vma")
    assert read_anon_vmas(machine.kernel(), words(own), AddressSet(), ProblemLog()).active.tolist() == [-1]


def test_a_set_of_addresses_gives_each_once() -> None:
    seen = AddressSet()
    assert seen.add(words(5, 3, 5)).tolist() == [3, 5]
    assert seen.add(words(5, 4)).tolist() == [4]
    many = np.arange(10, 5000, dtype=np.uint64)
    assert len(seen.add(many)) == len(many)
    assert seen.add(words(4999, 5000)).tolist() == [5000]
    assert seen.all().tolist() == [3, 4, 5, *range(10, 5001)]
