"""Who has a swapped page, and which pages of shared memory are swapped."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import LINUX, PAGE

from views.user_memory import NUMBERS, STRUCTS, UserMemory, present, swapped
from vmaforensics.arch.page_tables import PteState
from vmaforensics.views.pages.swap import ShmemSwap, shmem_swapped, swap_counts, swap_holders
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.files import Files
from vmaforensics.views.vmas.vmas import Vmas

TMPFS_MAGIC = 0x01021994
MOST = STRUCTS | {
    "swap_info_struct": "flags:u64 max:u32 swap_map:*",
    "address_space": "host:* i_pages:xarray",
    "xarray": "xa_lock:u32 xa_flags:u32 xa_head:*",
    "xa_node": "shift:u8 offset:u8 count:u8 nr_values:u8 parent:* array:* private_list:list_head slots:*[64]",
    "inode": LINUX["inode"] + " i_size:i64",
    "shmem_inode_info": "flags:u64 alloced:u64 swapped:u64 vfs_inode:inode",
}
START = 0x7000_0000


def soft_dirty(entry: int) -> int:
    return entry | 1 << 3  # _PAGE_SWP_SOFT_DIRTY lies below the offset


def counts(memory: UserMemory) -> list[int]:
    entries, kernel = memory.gather().entries, memory.kernel()
    ptes = entries.all()
    holders = swap_holders(kernel, entries)
    found: list[int] = swap_counts(kernel, ptes.entry[ptes.state == PteState.SWAP], holders).tolist()
    return found


def test_without_a_swap_map_entries_are_counted() -> None:
    memory = UserMemory()
    first, second = memory.add_mm(), memory.add_mm()
    memory.map(first, 0x1000, swapped(0, 7))
    memory.map(first, 0x2000, swapped(0, 8))
    memory.map(first, 0x3000, swapped(1, 7))
    memory.map(second, 0x1000, soft_dirty(swapped(0, 7)))
    assert counts(memory) == [2, 1, 1, 2]
    assert counts(UserMemory()) == []


@pytest.mark.parametrize(
    ("byte", "expected"),
    [
        (3, 3),
        (0x40 | 2, 2),  # SWAP_HAS_CACHE is no page table's
        (0x80 | 5, 1),  # COUNT_CONTINUED: the count goes on elsewhere
    ],
)
def test_the_kernels_own_count_is_taken_where_it_is_whole(byte: int, expected: int) -> None:
    memory = UserMemory(MOST, NUMBERS)
    swap_map = memory.room(64)
    memory.write(swap_map + 7, bytes([byte]))
    pointers = memory.room(16)
    memory.word(pointers, memory.put("swap_info_struct", {"max": 64, "swap_map": swap_map}))
    memory.symbols["swap_info"] = pointers
    memory.map(memory.add_mm(), 0x1000, swapped(0, 7))
    assert counts(memory) == [expected]


def test_an_offset_beyond_the_swap_file_is_not_looked_up() -> None:
    memory = UserMemory(MOST, NUMBERS)
    swap_map = memory.room(64)
    memory.write(swap_map + 7, b"\x03")
    pointers = memory.room(16)
    memory.word(pointers, memory.put("swap_info_struct", {"max": 7, "swap_map": swap_map}))
    memory.symbols["swap_info"] = pointers
    memory.map(memory.add_mm(), 0x1000, swapped(0, 7))
    assert counts(memory) == [1]


class SharedMemory(UserMemory):
    """A file of 8 pages on tmpfs, of which those in ``places`` are swapped."""

    def __init__(self, *places: int, pages: int = 8) -> None:
        super().__init__(MOST, NUMBERS)
        self.mm = self.add_mm()
        sb = self.put("super_block", {"s_magic": TMPFS_MAGIC})
        info = self.put("shmem_inode_info", {"swapped": len(places)})
        self.host = self.at("shmem_inode_info", info, "vfs_inode")
        self.set("inode", self.host, "i_sb", sb)
        self.set("inode", self.host, "i_size", pages * PAGE)
        slots = [5 << 1 | 1 if place in places else 0 for place in range(64)]
        self.node = self.put("xa_node", {"slots": slots})
        self.mapping = self.put("address_space", {"host": self.host, "i_pages.xa_head": self.node + 2})

    def swapped_in(self, *, first: int = 0, pages: int = 8, vm_flags: int = flags.VM_SHARED) -> ShmemSwap:
        """What is swapped of a VMA of ``pages`` pages from ``first`` on."""
        files = Files.of(file=[1], ok=[True], mapping=[self.mapping])
        size = pages * PAGE
        vmas = Vmas.of(start=[START], end=[START + size], ok=[True], pgoff=[first], file_row=[0], flags=[vm_flags])
        return shmem_swapped(self.kernel(), self.gather().entries, files, vmas, np.array([self.mm]))


def test_all_swapped_pages_of_a_file_that_is_mapped_whole_count() -> None:
    found = SharedMemory(1, 4, 6).swapped_in()
    assert (found.sizes.tolist(), found.known.tolist()) == ([3 * PAGE], [True])


def test_of_a_part_those_within_it_count() -> None:
    memory = SharedMemory(1, 4, 6)
    assert memory.swapped_in(first=2, pages=3).sizes.tolist() == [PAGE]
    assert memory.swapped_in(first=4, pages=3).sizes.tolist() == [2 * PAGE]
    assert memory.swapped_in(first=7, pages=1).sizes.tolist() == [0]


def test_of_a_private_writable_vma_only_pages_without_an_entry_count() -> None:
    memory = SharedMemory(1, 4, 6)
    memory.map(memory.mm, START + 4 * PAGE, present(memory.frame()))  # a copy of its own
    assert memory.swapped_in(vm_flags=flags.VM_WRITE).sizes.tolist() == [2 * PAGE]
    assert memory.swapped_in(vm_flags=flags.VM_READ).sizes.tolist() == [3 * PAGE]


def test_files_that_are_not_on_tmpfs_have_nothing_swapped() -> None:
    memory = SharedMemory(1)
    memory.set("inode", memory.host, "i_sb", memory.put("super_block", {"s_magic": 0xEF53}))
    found = memory.swapped_in()
    assert (found.sizes.tolist(), found.known.tolist()) == ([0], [True])


def test_a_page_cache_with_a_lost_node_is_not_known_where_it_is_needed() -> None:
    memory = SharedMemory(1, 4)
    lost = memory.room(PAGE, PAGE)
    memory.drop(lost)
    memory.set("address_space", memory.mapping, "i_pages.xa_head", lost + 2)
    assert memory.swapped_in(pages=3).known.tolist() == [False]
    assert memory.swapped_in().known.tolist() == [True]  # the file's own number is enough


def test_a_page_cache_that_leads_into_itself_is_read_once() -> None:
    memory = SharedMemory(1)
    memory.set("xa_node", memory.node, "slots", [memory.node + 2, 5 << 1 | 1])
    assert memory.swapped_in(pages=3).sizes.tolist() == [PAGE]


def test_a_vma_without_a_file_has_no_shared_memory() -> None:
    memory = SharedMemory(1)
    vmas = Vmas.of(start=[START], end=[START + PAGE], ok=[True])
    found = shmem_swapped(memory.kernel(), memory.gather().entries, Files.zeros(0), vmas, np.array([0]))
    assert (found.sizes.tolist(), found.known.tolist()) == ([0], [True])
