"""A kernel made by hand in which addresses lead somewhere: slabs of several caches, struct pages, a stack, symbols.

The last page of its memory holds all struct pages; frames are those of the memory itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from handmade import BASE, CONSTANTS, LINUX, PAGE, Machine

from vmaforensics.views.objects.surroundings import read_surroundings
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.tasks import walk_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaforensics.views.objects.surroundings import Surroundings

PAGES = 128
VMEMMAP = BASE + (PAGES - 2) * PAGE
SLAB, TABLE, BUDDY = (0xF5 << 24, 0xF2 << 24, 0xF0 << 24)  # page_type of PGTY_slab, PGTY_table, PGTY_buddy
STRUCTS = LINUX | {
    "task_struct": LINUX["task_struct"] + " fs:*",
    "reciprocal": "x:u32",
    "list_head": "next:* prev:*",
    "kmem_cache": "size:u32 object_size:u32 offset:u32 oo:reciprocal random:u64 red_left_pad:u32 refcount:i32 name:*",
    "page": "flags:u64 compound_head:* lru:u64 mapping:* index:u64 private:u64 page_type:u32 _refcount@52:atomic_t "
    "memcg_data@56:u64",
    "slab": "flags:u64 slab_cache:* next:* freelist@32:* inuse@40:u16 objects@42:u16 frozen@44:u8",
    "per_cpu_pages": "count:u32 lists:list_head[3]",
    "zone": "per_cpu_pageset:*",
    "pglist_data": "node_zones:zone[1]",
    "vm_special_mapping": "name:*",
    "vma_shared": "rb:rb_node rb_subtree_last:u64",
    "vm_area_struct": LINUX["vm_area_struct"] + " shared:vma_shared",
    "address_space": "host:*",
    "anon_vma": "root:* rb_root:rb_root_cached",
    "anon_vma_chain": "vma:* anon_vma:* rb:rb_node",
    "fs_struct": "root:path",
    "qstr": "len:u32 name:*",
    "dentry": "d_parent:* d_inode:* d_sb:* d_name:qstr d_hash:hlist_node d_op:*",
    "dentry_operations": "d_dname:*",
    "vfsmount": "mnt_root:* mnt_sb:*",
    "mount": "mnt_parent:* mnt_mountpoint:* mnt:vfsmount",
}
CODES = CONSTANTS | {"PGTY_slab": 0xF5, "PGTY_table": 0xF2, "PGTY_buddy": 0xF0}


class Hand:
    """Slabs of one page each, filled from the caches that are asked for."""

    def __init__(self, structs: Mapping[str, str] = STRUCTS) -> None:
        self.machine = Machine(structs, CODES, pages=PAGES)
        for name, value in (("vmemmap_base", VMEMMAP), ("page_offset_base", BASE)):
            at = self.machine.symbols[name] = self.machine.room(8)
            self.machine.word(at, value)
        task = self.machine.put("task_struct", {"comm": b"swapper/0"})
        self.machine.symbols["init_task"] = task
        tasks = self.machine.at("task_struct", task, "tasks.next")
        self.machine.word(tasks, tasks)
        self.machine.word(tasks + 8, tasks)
        self.slabs: dict[str, tuple[int, int]] = {}  # the first object of each cache, and their size

    def cache(self, name: str, size: int, *, users: int = 1, offset: int = 8) -> int:
        """A cache with one slab, of which all objects are allocated; returns its kmem_cache."""
        text = self.machine.room(64)
        self.machine.write(text, name.encode() + b"\0")
        members = {"size": size, "object_size": size, "offset": offset, "oo.x": PAGE // size, "refcount": users}
        cache = self.machine.put("kmem_cache", members | {"name": text})
        base = self.machine.room(PAGE, PAGE)
        self.slabs[name] = (base, size)
        page = self.page_of(base)
        for path, value in (("slab_cache", cache), ("objects", PAGE // size)):
            self.machine.set("slab", page, path, value)
        self.machine.set("page", page, "page_type", SLAB)
        return cache

    def object(self, cache: str, number: int) -> int:
        """Address of an object of the slab of a cache."""
        base, size = self.slabs[cache]
        return base + number * size

    def free(self, cache: str, *numbers: int, offset: int = 8) -> None:
        """Put objects on the free list of the slab, in that order."""
        objects = [self.object(cache, number) for number in numbers]
        self.machine.set("slab", self.page_of(objects[0]), "freelist", objects[0])
        for at, after in zip(objects, [*objects[1:], 0], strict=True):
            self.machine.word(at + offset, after)

    def page_of(self, address: int) -> int:
        """The struct page of the frame at an address."""
        return VMEMMAP + 64 * ((address - BASE) // PAGE)

    def put(self, struct: str, address: int, members: Mapping[str, int | bytes]) -> int:
        """Write members of an object that lies at ``address``."""
        for path, value in members.items():
            self.machine.set(struct, address, path, value)
        return address

    def surroundings(self) -> Surroundings:
        kernel = self.machine.kernel()
        return read_surroundings(kernel, walk_tasks(kernel, ProblemLog()))
