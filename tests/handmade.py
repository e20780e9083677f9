"""A kernel made by hand: structures laid out in a few words, objects in a small memory, read back by the engine.

    machine = Machine({"list_head": "next:* prev:*", "task_struct": "pid:i32 comm:u8[16] tasks:list_head mm:*"})
    task = machine.put("task_struct", {"pid": 7, "comm": b"bash", "tasks.next": machine.at("init_task")})
    machine.symbols["init_task"] = task
    kernel = machine.kernel()

A member is ``name:type``: u8 to u64, i8 to i64, ``*`` for a pointer, ``*name`` for one to a structure, the name of
another structure for an embedded one, each with ``[count]`` for an array. Members lie one behind the other at their
natural alignment, or where ``name@offset:type`` says; unions are made that way. :data:`LINUX` has the structures that
views read most, with the members of a 6.12 kernel; :data:`LINUX_5_10` those of one with a list and a red-black tree.

Objects lie in a linear mapping from :data:`BASE` on, each on 256 bytes of its own, as slab objects and maple nodes do.
"""

from __future__ import annotations

import re
import struct as packing
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.image.formats.segments import Segments, lay_out
from vmaforensics.image.overlay import Overlay
from vmaforensics.image.source import Mapped
from vmaforensics.kernel.kernel import Identity, Kernel
from vmaforensics.kernel.space.kernel_space import KernelSpace, LinearPiece
from vmaforensics.kernel.structures.layout import Field, Layout, member
from vmaforensics.kernel.symbols.by_address import ByAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaforensics.image.memory import PhysicalMemory

BASE = 0xFFFF_8880_0000_0000
PAGE = 4096
_ALIGN = 256  # of objects: that of a maple node
_SCALARS = {f"{kind}{8 * size}": (size, kind == "i") for kind in "ui" for size in (1, 2, 4, 8)}
_MEMBER = re.compile(r"(?P<name>\w+)(?:@(?P<offset>\d+))?:(?P<type>\*\w*|\w+)(?:\[(?P<count>\d+)\])?$")

Value = int | bytes | list[int]

LINUX: dict[str, str] = {
    "list_head": "next:* prev:*",
    "hlist_node": "next:* pprev:*",
    "rb_node": "__rb_parent_color:u64 rb_right:* rb_left:*",
    "rb_root": "rb_node:*",
    "rb_root_cached": "rb_root:rb_root rb_leftmost:*",
    "refcount_t": "refs:atomic_t",
    "atomic_t": "counter:i32",
    "atomic64_t": "counter:i64",
    "task_struct": "flags:u32 __state:u32 exit_state:i32 pid:i32 tgid:i32 on_cpu:i32 comm:u8[16] stack:* mm:* "
    "active_mm:* real_parent:* signal:* sighand:* files:* start_boottime:u64 tasks:list_head thread_node:list_head",
    "signal_struct": "thread_head:list_head",
    "maple_tree": "ma_root:* ma_flags:u32",
    "maple_metadata": "end:u8 gap:u8",
    "maple_range_64": "parent:* pivot:u64[15] slot:*[16] meta@248:maple_metadata",
    "maple_arange_64": "parent:* pivot:u64[9] slot:*[10] gap:u64[10] meta:maple_metadata",
    "maple_node": "raw:u8[256]",
    "rw_semaphore": "count:atomic64_t",
    "mm_context_t": "flags:u64 vdso:* ldt:*",
    "mm_struct": "mm_users:atomic_t mm_count:atomic_t mm_mt:maple_tree pgd:* task_size:u64 map_count:i32 "
    "mmap_lock:rw_semaphore pgtables_bytes:atomic64_t total_vm:u64 locked_vm:u64 data_vm:u64 exec_vm:u64 stack_vm:u64 "
    "start_code:u64 end_code:u64 start_data:u64 end_data:u64 start_brk:u64 brk:u64 start_stack:u64 arg_start:u64 "
    "arg_end:u64 env_start:u64 env_end:u64 saved_auxv:u64[52] exe_file:* context:mm_context_t",
    "pgprot_t": "pgprot:u64",
    "vm_area_struct": "vm_start:u64 vm_end:u64 vm_mm:* vm_page_prot:pgprot_t vm_flags:u64 anon_vma_chain:list_head "
    "anon_vma:* vm_ops:* vm_pgoff:u64 vm_file:* vm_private_data:* anon_name:* vm_refcnt:refcount_t",
    "vm_operations_struct": "open:* close:* fault:* name:*",
    "path": "mnt:* dentry:*",
    "file": "f_mode:u32 f_mapping:* f_inode:* private_data:* f_path:path",
    "inode": "i_mode:u16 i_nlink:u32 i_sb:* i_ino:u64 i_mapping:*",
    "super_block": "s_dev:u32 s_flags:u64 s_magic:u64",
    "dentry": "d_parent:* d_inode:* d_sb:*",
}
LINUX_5_10: dict[str, str] = LINUX | {
    "mm_struct": "mmap:* mm_rb:rb_root highest_vm_end:u64 " + LINUX["mm_struct"].replace("mm_mt:maple_tree ", ""),
    "mm_context_t": "ia32_compat:u16 vdso:* ldt:*",
    "vm_area_struct": "vm_start:u64 vm_end:u64 vm_next:* vm_prev:* vm_rb:rb_node rb_subtree_gap:u64 vm_mm:* "
    "vm_page_prot:pgprot_t vm_flags:u64 anon_vma_chain:list_head anon_vma:* vm_ops:* vm_pgoff:u64 vm_file:* "
    "vm_private_data:*",
}
CONSTANTS = {"maple_dense": 0, "maple_leaf_64": 1, "maple_range_64": 2, "maple_arange_64": 3}


class Types:
    """Layouts of structures described in words; enumerators by name."""

    def __init__(self, structs: Mapping[str, str], constants: Mapping[str, int]) -> None:
        self._words = dict(structs)
        self._constants = dict(constants)
        self._made: dict[str, Layout] = {}

    def struct(self, name: str) -> Layout | None:
        """The layout of a structure; None for one that was not described."""
        if name not in self._made and name in self._words:
            self._made[name] = self._lay_out(name)
        return self._made.get(name)

    def constant(self, name: str) -> int | None:
        """The value of an enumerator."""
        return self._constants.get(name)

    def _lay_out(self, name: str) -> Layout:
        fields: dict[str, Field] = {}
        end, widest = 0, 1
        for text in self._words[name].split():
            found = _MEMBER.match(text)
            assert found, f"{text!r} of {name} is no name:type"
            size, signed, align, inner = self._type(found["type"])
            at = int(found["offset"]) if found["offset"] else -(-end // align) * align
            count = int(found["count"]) if found["count"] else None
            pointer = found["type"].startswith("*")
            fields[found["name"]] = Field(
                offset=at,
                size=size,
                count=count,
                signed=signed,
                struct=found["type"][1:] if pointer else inner,
                pointer=pointer,
            )
            end, widest = max(end, at + size * (count or 1)), max(widest, align)
        return Layout(name=name, size=-(-end // widest) * widest, fields=fields)

    def _type(self, name: str) -> tuple[int, bool, int, str | None]:
        """(size, signed, alignment, structure) of a type."""
        if name.startswith("*"):
            return 8, False, 8, None
        if name in _SCALARS:
            size, signed = _SCALARS[name]
            return size, signed, size, None
        inner = self.struct(name)
        assert inner is not None, f"structure {name} is not described"
        return inner.size, False, 8, name


class Symbols(dict[str, int]):
    """Symbols by name."""

    every_function = False

    def find(self, name: str) -> list[int]:
        """Every address of ``name``."""
        return [self[name]] if name in self else []

    def name_of(self, address: int) -> str | None:
        """The symbol at exactly ``address``."""
        return next((name for name, at in self.items() if at == address), None)

    def by_address(self) -> ByAddress:
        """The symbols in the order of addresses."""
        return ByAddress(np.array(list(self.values()), np.uint64), list(self).__getitem__)


class Machine:
    """A memory of ``pages`` page frames, all mapped from :data:`BASE` on, and what lies in it."""

    def __init__(
        self, structs: Mapping[str, str] = LINUX, constants: Mapping[str, int] = CONSTANTS, *, pages: int = 64
    ) -> None:
        self.types = Types(structs, constants)
        self.symbols = Symbols()
        self._data = bytearray(pages * PAGE)
        self._next = PAGE  # nothing lies at the beginning
        self._lost: set[int] = set()

    def room(self, size: int, align: int = _ALIGN) -> int:
        """Address of ``size`` new bytes of zeros."""
        start = -(-self._next // align) * align
        self._next = start + size
        assert self._next <= len(self._data), "the machine has too few pages"
        return BASE + start

    def put(self, struct: str, members: Mapping[str, Value] | None = None) -> int:
        """A new object, zeros except for ``members``; returns its address."""
        layout = self.types.struct(struct)
        assert layout is not None, f"structure {struct} is not described"
        address = self.room(layout.size)
        for path, value in (members or {}).items():
            self.set(struct, address, path, value)
        return address

    def set(self, struct: str, address: int, path: str, value: Value) -> None:
        """Write a member: a number, the numbers of an array, or bytes."""
        found = self._member(struct, path)
        if isinstance(value, bytes):
            self.write(address + found.offset, value)
            return
        values = value if isinstance(value, list) else [value]
        data = b"".join((number % (1 << 8 * found.size)).to_bytes(found.size, "little") for number in values)
        self.write(address + found.offset, data)

    def at(self, struct: str, address: int, path: str) -> int:
        """Address of a member."""
        return address + self._member(struct, path).offset

    def write(self, address: int, data: bytes) -> None:
        """Write bytes."""
        self._data[address - BASE : address - BASE + len(data)] = data

    def word(self, address: int, value: int) -> None:
        """Write a 64-bit word."""
        self.write(address, packing.pack("<Q", value % (1 << 64)))

    def drop(self, address: int) -> None:
        """Take the page of ``address`` out of the image: RAM that is not in the dump."""
        self._lost.add((address - BASE) // PAGE)

    def memory(self) -> PhysicalMemory:
        """The physical memory; its address 0 is :data:`BASE`."""
        rows = Segments.of_rows([(0, len(self._data), len(self._data), 0, 1)])
        memory, problems = lay_out(Mapped(np.frombuffer(bytes(self._data), np.uint8)), rows)
        assert not problems, problems
        overlay = Overlay(memory)
        for pfn in sorted(self._lost):
            overlay.drop(pfn)
        return overlay

    def kernel(self) -> Kernel:
        """The kernel, as if it had been found in an image."""
        memory = self.memory()
        identity = Identity(
            release="handmade", banner="", build_id=None, levels=4, isolation=False, kaslr_offset=None, phys_base=0,
            vmcoreinfo_source=None, symbols_source="", types_source="", translation_source="",
        )  # fmt: skip
        return Kernel(
            memory=memory,
            space=KernelSpace.linear(memory, [LinearPiece(BASE, BASE + len(self._data) - 1, 0)]),
            symbols=self.symbols,
            types=self.types,
            identity=identity,
            vmcoreinfo=None,
        )

    def _member(self, struct: str, path: str) -> Field:
        found = member(self.types, struct, path)
        assert found is not None, f"{struct} has no {path}"
        return found


def circular_list(machine: Machine, *heads: int) -> None:
    """Link the ``list_head`` at each address with the next, and the last with the first."""
    for here, after in zip(heads, (*heads[1:], *heads[:1]), strict=True):
        machine.word(here, after)
        machine.word(after + 8, here)
