"""Where the memory went: counters, slab caches, files in memory and vmalloc of kernels made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import LINUX, PAGE, Machine

from vmaforensics.views.memory.counters import read_counters
from vmaforensics.views.memory.figures import Figure, read_figures
from vmaforensics.views.memory.slab_caches import read_slab_use
from vmaforensics.views.memory.tmpfs import read_shmem_use
from vmaforensics.views.memory.vmalloc import read_vmalloc_use

ZONE_ITEMS = {"NR_FREE_PAGES": 0, "NR_MLOCK": 1, "NR_VM_ZONE_STAT_ITEMS": 2}
NODE_ITEMS = {"NR_FILE_PAGES": 0, "NR_ANON_MAPPED": 1, "NR_KERNEL_STACK_KB": 2, "NR_PAGETABLE": 3, "NR_SWAPCACHE": 4}
ITEMS = ZONE_ITEMS | NODE_ITEMS | {"NR_VM_NODE_STAT_ITEMS": 5}
STRUCTS = LINUX | {
    "zone": "managed_pages:atomic64_t per_cpu_zonestats:*",
    "pglist_data": "node_zones:zone[2] nr_zones:u32 per_cpu_nodestats:*",
    "per_cpu_zonestat": "vm_stat_diff:i8[2]",
    "per_cpu_nodestat": "stat_threshold:i8 vm_node_stat_diff:i8[5]",
    "kmem_cache_order_objects": "x:u32",
    "kmem_cache": "size:u32 object_size:u32 oo:kmem_cache_order_objects refcount:i32 name:* list:list_head node:*[2]",
    "kmem_cache_node": "nr_slabs:atomic64_t total_objects:atomic64_t",
    "shmem_inode_info": "swapped:u64 vfs_inode:inode",
    "address_space": "host:* nrpages:u64",
    "inode": "i_sb:* i_size:u64 i_mapping:* i_data:address_space i_sb_list:list_head i_dentry:hlist_first",
    "hlist_first": "first:*",
    "super_block": "s_list:list_head s_type:* s_magic:u64 s_inodes:list_head",
    "file_system_type": "name:*",
    "qstr": "hash:u32 len:u32 name:*",
    "dentry": "d_hash:hlist_node d_parent:* d_name:qstr d_inode:* d_op:* d_alias:hlist_node",
    "dentry_operations": "d_dname:*",
    "vfsmount": "mnt_root:*",
    "mount": "mnt_parent:* mnt_mountpoint:* mnt:vfsmount",
    "vmap_area": "va_start:u64 va_end:u64 rb_node:rb_node vm:*",
    "vm_struct": "addr:* size:u64 nr_pages:u32 caller:*",
    "percpu_counter": "lock:u32 count:i64 counters:*",
}


def machine() -> Machine:
    return Machine(STRUCTS, ITEMS, pages=64)


def variable(made: Machine, name: str, *values: int) -> None:
    made.symbols[name] = made.room(8 * len(values))
    for place, value in enumerate(values):
        made.word(made.symbols[name] + 8 * place, value)


def ring(made: Machine, *nodes: int) -> None:
    """Put list_heads on one list."""
    for at, after in zip(nodes, (*nodes[1:], nodes[0]), strict=True):
        made.set("list_head", at, "next", after)
        made.set("list_head", after, "prev", at)


def text(made: Machine, value: bytes) -> int:
    at = made.room(64)
    made.write(at, value + b"\0")
    return at


def counters(made: Machine) -> None:
    """1,000 pages free, 30 mapped; one CPU has 5 free ones and 2 mapped ones, and one page table less, to add."""
    zone_diff = made.put("per_cpu_zonestat", {"vm_stat_diff": [5, 0]})
    node_diff = made.put("per_cpu_nodestat", {"vm_node_stat_diff": [0, 2, 0, -1, 0]})
    node = made.put("pglist_data", {"nr_zones": 2, "per_cpu_nodestats": node_diff})
    zone = made.at("pglist_data", node, "node_zones")
    made.set("zone", zone, "managed_pages.counter", 2000)
    made.set("zone", zone, "per_cpu_zonestats", zone_diff)
    variable(made, "vm_zone_stat", 1000, 3)
    variable(made, "vm_node_stat", 400, 30, 64, 9, 0)
    variable(made, "node_data", node)
    variable(made, "_totalram_pages", 2000)


def test_counters_are_shown_as_the_kernel_shows_them_and_as_they_are() -> None:
    made = machine()
    counters(made)
    found = {figure.name: figure for figure in read_figures(made.kernel()).known}
    assert found["MemTotal"] == Figure("MemTotal", 8000, 8000)
    assert found["MemFree"] == Figure("MemFree", 4000, 4020)
    assert found["AnonPages"] == Figure("AnonPages", 120, 128)
    assert found["PageTables"] == Figure("PageTables", 36, 32)
    assert found["KernelStack"] == Figure("KernelStack", 64, 64)  # KiB, not pages
    assert found["Mlocked"] == Figure("Mlocked", 12, 12)


def test_a_counter_below_nothing_is_nothing() -> None:
    made = machine()
    counters(made)
    made.word(made.symbols["vm_node_stat"] + 8, -7)
    found = read_counters(made.kernel())
    assert found.value(made.kernel(), "NR_ANON_MAPPED") == 0


def test_more_than_any_machine_has_is_not_believed() -> None:
    made = machine()
    counters(made)
    variable(made, "_totalram_pages", (1 << 64) - 1)
    made.word(made.symbols["vm_node_stat"], (1 << 63) - 1)
    found = read_figures(made.kernel())
    assert not {"MemTotal", "Cached"} & {figure.name for figure in found.known}
    assert "MemTotal" in found.unknown


def test_what_cannot_be_read_is_named_and_never_zero() -> None:
    made = machine()
    counters(made)
    made.symbols["vm_zone_stat"] = 0xFFFF_8881_0000_0000
    found = read_figures(made.kernel())
    assert "MemFree" in found.unknown
    assert "MemFree" not in {figure.name for figure in found.known}


def test_commitments_are_summed_over_cpus() -> None:
    made = machine()
    variable(made, "vm_committed_as")
    made.symbols["vm_committed_as"] = made.put("percpu_counter", {"count": 100, "counters": made.room(8)})
    kernel = made.kernel()
    counter = kernel.u64(made.at("percpu_counter", made.symbols["vm_committed_as"], "counters"))
    made.write(counter, (-3).to_bytes(4, "little", signed=True))
    found = {figure.name: figure.value for figure in read_figures(made.kernel()).known}
    assert found["Committed_AS"] == 97 * PAGE >> 10


def test_slab_caches_are_counted_over_nodes() -> None:
    made = machine()
    nodes = [
        made.put("kmem_cache_node", {"nr_slabs.counter": slabs, "total_objects.counter": objects})
        for slabs, objects in ((3, 30), (2, 20))
    ]
    named = {"name": text(made, b"kmalloc-1k"), "object_size": 1024, "size": 1024, "oo.x": 2 << 16 | 16, "refcount": 3}
    cache = made.put("kmem_cache", named | {"node": nodes})
    made.symbols["slab_caches"] = made.room(16)
    ring(made, made.symbols["slab_caches"], made.at("kmem_cache", cache, "list"))
    variable(made, "nr_node_ids", 2)
    use = read_slab_use(made.kernel())
    assert use is not None and use.whole
    assert use.names.tolist() == [b"kmalloc-1k"]
    assert (use.caches.slabs.tolist(), use.caches.objects.tolist()) == ([5], [50])
    assert use.caches.bytes.tolist() == [5 * 4 * PAGE]


@pytest.mark.parametrize("count", [-1, 1 << 60])
def test_a_cache_that_counts_nonsense_is_not_believed(count: int) -> None:
    made = machine()
    node = made.put("kmem_cache_node", {"nr_slabs.counter": count, "total_objects.counter": 5})
    cache = made.put("kmem_cache", {"name": text(made, b"x"), "node": [node, 0]})
    made.symbols["slab_caches"] = made.room(16)
    ring(made, made.symbols["slab_caches"], made.at("kmem_cache", cache, "list"))
    use = read_slab_use(made.kernel())
    assert use is not None
    assert (use.whole, use.caches.ok.tolist(), use.caches.bytes.tolist()) == (False, [False], [0])


def test_files_in_memory_are_named_and_the_largest_come_first() -> None:
    made = machine()
    kind = made.put("file_system_type", {"name": text(made, b"tmpfs")})
    block = made.put("super_block", {"s_magic": 0x01021994, "s_type": kind})
    other = made.put("super_block", {"s_magic": 0xEF53, "s_type": kind})
    root = made.put("dentry")
    made.set("dentry", root, "d_parent", root)
    inodes = []
    for name, pages, swapped in ((b"small", 2, 0), (b"large", 5, 9), (b"empty", 0, 0)):
        info = made.put("shmem_inode_info", {"swapped": swapped})
        inode = made.at("shmem_inode_info", info, "vfs_inode")
        dentry = made.put("dentry", {"d_parent": root, "d_name.name": text(made, name), "d_name.len": len(name)})
        made.set("inode", inode, "i_data.nrpages", pages)
        made.set("inode", inode, "i_dentry.first", made.at("dentry", dentry, "d_alias"))
        inodes.append(made.at("inode", inode, "i_sb_list"))
    ring(made, made.at("super_block", block, "s_inodes"), *inodes)
    ring(made, made.at("super_block", other, "s_inodes"))
    made.symbols["super_blocks"] = made.room(16)
    blocks = [made.at("super_block", at, "s_list") for at in (block, other)]
    ring(made, made.symbols["super_blocks"], *blocks)
    use = read_shmem_use(made.kernel(), 10)
    assert use is not None and use.whole
    assert use.names.tolist() == [b"tmpfs:/large", b"tmpfs:/small"]
    assert (use.files.pages.tolist(), use.files.swapped.tolist()) == ([5, 2], [9, 0])


def test_a_list_of_inodes_that_runs_in_a_circle_ends_and_says_so() -> None:
    made = machine()
    block = made.put("super_block", {"s_magic": 0x01021994})
    nodes = [
        made.at("inode", made.at("shmem_inode_info", made.put("shmem_inode_info"), "vfs_inode"), "i_sb_list")
        for _ in range(2)
    ]
    ring(made, *nodes)  # without its head
    made.set("list_head", made.at("super_block", block, "s_inodes"), "next", nodes[0])
    made.symbols["super_blocks"] = made.room(16)
    ring(made, made.symbols["super_blocks"], made.at("super_block", block, "s_list"))
    use = read_shmem_use(made.kernel(), 10)
    assert use is not None and not use.whole


def test_vmalloc_is_added_up_by_caller() -> None:
    made = machine()
    areas = []
    for pages, caller in ((4, 0x100), (1, 0x200), (2, 0x100)):
        vm = made.put("vm_struct", {"nr_pages": pages, "caller": caller})
        areas.append(made.put("vmap_area", {"vm": vm}))
    root, left, right = (made.at("vmap_area", area, "rb_node") for area in areas)
    made.set("rb_node", root, "rb_left", left)
    made.set("rb_node", root, "rb_right", right)
    variable(made, "vmap_area_root", root)
    use = read_vmalloc_use(made.kernel())
    assert use is not None and use.whole
    assert (use.callers.tolist(), use.pages.tolist(), use.areas.tolist()) == ([0x100, 0x200], [6, 1], [2, 1])


def test_a_tree_that_leads_back_ends_and_says_so() -> None:
    made = machine()
    areas = [made.put("vmap_area", {"vm": made.put("vm_struct", {"nr_pages": 3, "caller": 8})}) for _ in range(2)]
    top, below = (made.at("vmap_area", area, "rb_node") for area in areas)
    made.set("rb_node", top, "rb_left", below)
    made.set("rb_node", below, "rb_left", top)
    variable(made, "vmap_area_root", top)
    use = read_vmalloc_use(made.kernel())
    assert use is not None
    assert (use.pages.tolist(), use.whole) == ([6], False)


def test_a_kernel_that_is_not_known_gives_nothing() -> None:
    kernel = Machine(LINUX).kernel()
    assert (read_slab_use(kernel), read_shmem_use(kernel, 5), read_vmalloc_use(kernel)) == (None, None, None)
    assert [figure for figure in read_figures(kernel).known if figure.name != "Hugetlb"] == []
    assert np.all(read_counters(kernel).zones == 0)
