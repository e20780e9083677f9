"""Both reverse maps together: a VMA that no index holds is found through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import LINUX, Machine, circular_list

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mms import Mms
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.reverse_maps.reverse_maps import RmapView, gather_rmap
from vmaforensics.views.view import View
from vmaforensics.views.vmas.files import read_files
from vmaforensics.views.vmas.vmas import classify, read_vmas

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64

STRUCTS = LINUX | {
    "vm_area_struct": LINUX["vm_area_struct"] + " shared:shared",
    "shared": "rb:rb_node rb_subtree_last:u64",
    "address_space": "host:* i_mmap_rwsem:rw_semaphore i_mmap:rb_root_cached",
    "inode": LINUX["inode"] + " i_sb_list:list_head",
    "super_block": LINUX["super_block"] + " s_list:list_head s_inodes:list_head",
    "anon_vma_chain": "vma:* anon_vma:* same_vma:list_head rb:rb_node rb_subtree_last:u64",
    "anon_vma": "root:* rwsem:rw_semaphore num_children:u64 num_active_vmas:u64 parent:* rb_root:rb_root_cached",
    "dentry": LINUX["dentry"] + " d_name:qstr d_op:*",
    "qstr": "hash_len:u64 name:*",
    "mount": "mnt_parent:* mnt_mountpoint:* mnt:vfsmount mnt_ns:*",
    "vfsmount": "mnt_root:* mnt_sb:*",
    "dentry_operations": "d_dname:*",
    "task_struct": LINUX["task_struct"] + " fs:*",
    "fs_struct": "root:path",
    "vm_special_mapping": "name:*",
}


class Mapped(Machine):
    """One process with two VMAs of one file, one of which has anonymous pages; only the first is in its index."""

    def __init__(self) -> None:
        super().__init__(STRUCTS, pages=128)
        self.mm = self.put("mm_struct")
        self.mapping = self.put("address_space")
        inode = self.put("inode", {"i_mapping": self.mapping, "i_sb": self.put("super_block")})
        self.file = self.put("file", {"f_mapping": self.mapping, "f_inode": inode})
        self.listed, self.stray = self.vma(0x1000), self.vma(0x5000)
        node = self.at("vm_area_struct", self.stray, "shared.rb")
        self.set("vm_area_struct", self.listed, "shared.rb.rb_right", node)
        root = self.at("vm_area_struct", self.listed, "shared.rb")
        self.set("address_space", self.mapping, "i_mmap.rb_root.rb_node", root)
        self.anon_vma = self.put("anon_vma", {"num_active_vmas": 1})
        for name in ("root", "parent"):
            self.set("anon_vma", self.anon_vma, name, self.anon_vma)
        self.link = self.put("anon_vma_chain", {"vma": self.stray, "anon_vma": self.anon_vma})
        head = self.at("vm_area_struct", self.stray, "anon_vma_chain")
        circular_list(self, head, self.at("anon_vma_chain", self.link, "same_vma"))
        self.set("anon_vma", self.anon_vma, "rb_root.rb_root.rb_node", self.at("anon_vma_chain", self.link, "rb"))
        self.set("vm_area_struct", self.stray, "anon_vma", self.anon_vma)

    def vma(self, start: int) -> int:
        members = {"vm_start": start, "vm_end": start + 0x1000, "vm_mm": self.mm, "vm_file": self.file}
        vma = self.put("vm_area_struct", members)
        circular_list(self, self.at("vm_area_struct", vma, "anon_vma_chain"))
        return vma

    def gather(self, *listed: int, log: ProblemLog | None = None) -> RmapView:
        """The reverse maps, if indices lead to ``listed``."""
        kernel, log = self.kernel(), ProblemLog() if log is None else log
        addresses: U64 = np.array(listed or [self.listed], np.uint64)
        vmas = read_vmas(kernel, addresses, log)
        files = read_files(kernel, vmas.file, None, ProblemLog())
        classify(kernel, vmas, files)
        mms = Mms.of(mm=[self.mm], ok=[True])
        return gather_rmap(kernel, Tasks.zeros(0), mms, vmas, files, log)


@pytest.fixture
def machine() -> Mapped:
    return Mapped()


def test_the_file_leads_to_a_vma_that_no_index_holds_and_this_to_its_anon_vma(machine: Mapped) -> None:
    rmap = machine.gather()
    assert rmap.vmas.vma.tolist() == [machine.listed, machine.stray]
    assert list(rmap.strays) == [machine.stray]
    assert rmap.mapping.tolist() == [machine.mapping, machine.mapping]
    assert rmap.file_nodes.vma.tolist() == [machine.listed, machine.stray]
    assert rmap.file_nodes.tree.tolist() == [machine.mapping] * 2
    assert rmap.anon_vmas.anon_vma.tolist() == [machine.anon_vma]
    assert rmap.anon_nodes.vma.tolist() == [machine.stray]
    assert rmap.chains.avc.tolist() == [machine.link]
    assert rmap.vma_rows(np.array([machine.stray, 5], np.uint64)).tolist() == [1, -1]
    assert rmap.vmas.file_row.tolist() == [0, 0]
    assert not rmap.chain_cut.any()


def test_where_the_index_holds_all_there_are_no_strays(machine: Mapped) -> None:
    rmap = machine.gather(machine.listed, machine.stray)
    assert (rmap.vmas.vma.tolist(), rmap.strays) == ([machine.listed, machine.stray], {})


def test_a_broken_tree_is_not_whole_and_a_problem_of_the_process_whose_pointer_broke(machine: Mapped) -> None:
    machine.set("vm_area_struct", machine.stray, "shared.rb.rb_left", 0x1234)
    log = ProblemLog()
    rmap = machine.gather(log=log)
    assert rmap.mappings.whole.tolist() == [False]
    assert rmap.anon_vmas.whole.tolist() == [True]
    problems = log.table()
    problems = problems.take(problems.view == View.FILE_RMAP)
    assert problems.problem.tolist() == [Problem.NON_CANONICAL]
    assert problems.mm.tolist() == [machine.mm]


def test_a_chain_that_breaks_off_is_marked(machine: Mapped) -> None:
    machine.set("anon_vma_chain", machine.link, "same_vma.next", 0x1234)
    rmap = machine.gather()
    assert rmap.chain_cut.tolist() == [False, True]


def test_the_lock_of_its_root_guards_an_anon_vma(machine: Mapped) -> None:
    root = machine.put("anon_vma", {"rwsem.count.counter": 1})
    machine.set("anon_vma", machine.anon_vma, "root", root)
    rmap = machine.gather()
    held = dict(zip(rmap.anon_vmas.anon_vma.tolist(), rmap.anon_vmas.held.tolist(), strict=True))
    assert held[machine.anon_vma]


def test_without_files_only_vmas_lead_to_trees(machine: Mapped) -> None:
    kernel, log = machine.kernel(), ProblemLog()
    vmas = read_vmas(kernel, np.array([machine.stray], np.uint64), log)
    rmap = gather_rmap(kernel, Tasks.zeros(0), Mms.of(mm=[machine.mm]), vmas, None, log)
    assert rmap.mapping.tolist() == [0]
    assert len(rmap.mappings) == 0
    assert rmap.anon_nodes.vma.tolist() == [machine.stray]
