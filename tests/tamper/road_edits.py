"""Labelled edits of what stands between a reader of /proc and the areas: tables, code, modules, hooks of the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tamper.edits import Label
from vmaforensics.arch.page_tables import ALLOW_EXECUTE
from vmaforensics.arch.x86_64 import bits
from vmaforensics.views.pages.frame_kinds import FrameKind, classify_frames
from vmaforensics.views.road.code_owners import Owner
from vmaforensics.views.stacks.modules import module_memory, module_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Edit

    from vmaforensics.views.road.road import RoadView

POISON = 0xDEAD_0000_0000_0100  # LIST_POISON1
ENABLED = 1 << 31  # FTRACE_FL_ENABLED
CALL, JUMP = 0xE8, 0xE9


def road_of(edit: Edit) -> RoadView:
    """The clean road."""
    assert edit.views.road is not None
    return edit.views.road


def symbol(edit: Edit, name: str) -> int:
    """Address of a symbol of the kernel."""
    at = edit.kernel.symbols.get(name)
    assert at is not None, f"no {name}"
    return at


def label_of(technique: str, at: int, size: int = 8) -> Label:
    """A label of a word of the kernel: nobody's, at a kernel address."""
    return Label(technique=technique, pid=0, start=at, end=at + size)


def module_code(edit: Edit) -> int:
    """Code of a module on the list."""
    road = road_of(edit)
    start = module_text(edit.kernel, road.loaded.modules.module).start
    assert start.any(), "no module"
    return int(start[start != 0][0]) + 0x10


def heap(edit: Edit) -> int:
    """A page of the direct map that belongs to nobody."""
    kinds = classify_frames(edit.kernel)
    free = kinds.all_of(FrameKind.FREE)
    assert len(free), "no free frame"
    base = edit.kernel.arch.direct_map(edit.kernel.variable)
    return int(base) + (int(free[len(free) // 2]) << 12)


def _member(edit: Edit, table: str, struct: str, path: str, target: int, technique: str) -> Label:
    where = edit.at(struct, symbol(edit, table), path)
    edit.get(where)
    edit.put(where, target)
    return label_of(technique, where)


def maps_shown_by_module(edit: Edit) -> Label:
    """``proc_pid_maps_op.show`` leads to code of a module that is on the list."""
    target = module_code(edit)
    return _member(edit, "proc_pid_maps_op", "seq_operations", "show", target, "maps shown by a module")


def maps_shown_by_other(edit: Edit) -> Label:
    """``proc_pid_maps_op.next`` leads to another function of the kernel."""
    target = symbol(edit, "seq_read")
    return _member(edit, "proc_pid_maps_op", "seq_operations", "next", target, "next area by another function")


def maps_opened_by_heap(edit: Edit) -> Label:
    """``proc_pid_maps_operations.open`` leads to memory that nobody owns."""
    target = heap(edit)
    return _member(edit, "proc_pid_maps_operations", "file_operations", "open", target, "maps opened by foreign code")


def mem_read_by_module(edit: Edit) -> Label:
    """``proc_mem_operations.read`` leads to code of a module."""
    target = module_code(edit)
    return _member(edit, "proc_mem_operations", "file_operations", "read", target, "/proc/PID/mem read by a module")


def pagemap_walk_replaced(edit: Edit) -> Label:
    """``pagemap_ops.pmd_entry`` leads into the middle of a function."""
    target = symbol(edit, "pagemap_pmd_range") + 8
    return _member(edit, "pagemap_ops", "mm_walk_ops", "pmd_entry", target, "page tables walked from within a function")


def maps_entry_replaced(edit: Edit) -> Label:
    """The entry ``maps`` below /proc/PID leads to a table in foreign memory."""
    kernel, start = edit.kernel, symbol(edit, "tgid_base_stuff")
    size = kernel.sizeof("pid_entry")
    for number in range(64):
        at = start + number * size
        if kernel.strings(np.array([edit.get(edit.at("pid_entry", at, "name"))], np.uint64))[0] == b"maps":
            where = edit.at("pid_entry", at, "fop")
            edit.put(where, heap(edit))
            return label_of("table of maps in foreign memory", where)
    raise AssertionError("no entry called maps")


def _object(edit: Edit, kind: str, technique: str) -> Label:
    """The pointer of one object of /proc leads to a copy of its table, of which one function is foreign."""
    road = road_of(edit)
    group = [row for row, found in enumerate(road.groups) if found.struct == kind]
    rows = np.flatnonzero(np.isin(road.pointers.group, group) & (road.pointers.target != 0))
    assert len(rows), f"no {kind}"
    at = int(road.pointers.at[rows[len(rows) // 2]])
    copy = heap(edit)
    old = edit.get(at)
    for offset in range(0, 256, 8):
        edit.put(copy + offset, edit.get(old + offset))
    edit.put(at, copy)
    return label_of(technique, at)


def inode_operations_copied(edit: Edit) -> Label:
    """``i_fop`` of one inode of /proc leads to a copy of its table."""
    return _object(edit, "inode.i_fop", "operations of one inode copied")


def dentry_operations_copied(edit: Edit) -> Label:
    """``d_op`` of one dentry of /proc leads to a copy of its table."""
    return _object(edit, "dentry.d_op", "operations of one dentry copied")


def _site(edit: Edit, name: str) -> int:
    """The entry site of a function: what is patched when it is traced."""
    start = symbol(edit, name)
    for offset in (0, 4):
        data, ok = edit.kernel.space.gather(np.array([start + offset], np.uint64), 5)
        found = edit.kernel.arch.branches(data, np.array([start + offset], np.uint64))
        if ok[0] and found.kind[0] == 0:
            return start + offset
    raise AssertionError("the code of this function is not in the image")


def _branch(edit: Edit, at: int, opcode: int, target: int) -> None:
    edit.write(at, bytes([opcode]) + ((target - at - 5) % (1 << 32)).to_bytes(4, "little"))


def entry_jumps_to_module(edit: Edit) -> Label:
    """A jump to a module over the entry of ``show_map_vma``."""
    at = _site(edit, "show_map_vma")
    _branch(edit, at, JUMP, module_code(edit))
    return label_of("jump at the entry of what prints areas", at, 1)


def entry_calls_module(edit: Edit, *, repaired: bool = False) -> Label:
    """A call to a module at the entry of ``show_map_vma``; repaired: the record says that it is traced."""
    at = _site(edit, "show_map_vma")
    _branch(edit, at, CALL, module_code(edit))
    if repaired:
        edit.put(_record(edit, at) + edit.kernel.offset("dyn_ftrace", "flags"), ENABLED | 1)
    technique = "call at the entry of what prints areas" + (", record repaired" if repaired else "")
    return label_of(technique, at, 1)


def entry_calls_tracer(edit: Edit) -> Label:
    """A call to ftrace at the entry of ``m_next``, its record as if it were traced, and no tracer on the list."""
    at = _site(edit, "show_map")
    _branch(edit, at, CALL, symbol(edit, "ftrace_caller"))
    edit.put(_record(edit, at) + edit.kernel.offset("dyn_ftrace", "flags"), ENABLED | 1)
    return label_of("a tracer that is on no list", at, 1)


def breakpoint_at_entry(edit: Edit) -> Label:
    """A breakpoint at the entry of ``access_remote_vm``, and no kprobe."""
    name = "access_remote_vm" if edit.kernel.symbols.get("access_remote_vm") else "__access_remote_vm"
    at = _site(edit, name)
    edit.write(at, b"\xcc")
    return label_of("breakpoint without a kprobe", at, 1)


def _record(edit: Edit, site: int) -> int:
    """The ``dyn_ftrace`` of an entry."""
    kernel = edit.kernel
    at, size = kernel.variable("ftrace_pages_start", 8), kernel.sizeof("dyn_ftrace")
    while at:
        records = edit.get(edit.at("ftrace_page", at, "records"))
        count = edit.get(edit.at("ftrace_page", at, "index")) & 0xFFFF_FFFF
        places = records + np.arange(count, dtype=np.uint64) * np.uint64(size)
        ips, _ = kernel.gather_member("dyn_ftrace", "ip", places)
        hits = np.flatnonzero(ips == np.uint64(site))
        if len(hits):
            return int(places[hits[0]])
        at = edit.get(edit.at("ftrace_page", at, "next"))
    raise AssertionError("no record of this entry")


def static_call_redirected(edit: Edit) -> Label:
    """A static call leads to a module."""
    kernel = edit.kernel
    start, stop = symbol(edit, "__start_static_call_sites"), symbol(edit, "__stop_static_call_sites")
    for where in range(start, stop, 8):
        word = edit.get(where)
        distance = (word & 0xFFFF_FFFF) - ((word & 0x8000_0000) << 1)
        at = where + distance
        data, ok = kernel.space.gather(np.array([at], np.uint64), 5)
        owner = int(road_of(edit).owners.of(np.array([at], np.uint64))[0])
        if ok[0] and data[0, 0] == CALL and owner == Owner.KERNEL:
            _branch(edit, at, CALL, module_code(edit))
            return label_of("static call redirected", at, 1)
    raise AssertionError("no static call in the image")


def system_call_replaced(edit: Edit) -> Label:
    """An entry of ``sys_call_table`` leads to foreign memory."""
    where = symbol(edit, "sys_call_table") + 8 * 310  # process_vm_readv
    edit.get(where)
    edit.put(where, heap(edit))
    return label_of("system call replaced", where)


def _page_faults_to(edit: Edit, target: int, technique: str) -> Label:
    where = symbol(edit, "idt_table") + 16 * 14
    edit.put(where, edit.get(where) & ~0xFFFF_0000_0000_FFFF | target & 0xFFFF | (target & 0xFFFF_0000) << 32)
    edit.put(where + 8, target >> 32, 4)
    return label_of(technique, where)


def exception_replaced(edit: Edit) -> Label:
    """The gate of page faults leads to a module."""
    return _page_faults_to(edit, module_code(edit), "page faults taken by a module")


def exception_by_other_function(edit: Edit) -> Label:
    """The gate of page faults leads to another function of the kernel, which is no entry."""
    return _page_faults_to(edit, symbol(edit, "seq_read"), "page faults taken by another function")


def vector_table_copied(edit: Edit) -> Label:
    """CPUs are told of a copy of the table of exceptions."""
    where = symbol(edit, "idt_descr") + 2
    copy, table = heap(edit), symbol(edit, "idt_table")
    for offset in range(0, 4096, 8):
        edit.put(copy + offset, edit.get(table + offset))
    edit.put(where, copy)
    return label_of("table of exceptions copied", where)


def _leaving(edit: Edit, name: str, opcode: int) -> int:
    """Where a function first calls or jumps out of itself."""
    kernel, start = edit.kernel, symbol(edit, name)
    at = np.array([start], np.uint64)
    end = int(kernel.symbols.by_address().nearest(at).end[0])
    data, ok = kernel.space.gather(at, end - start)
    assert ok[0], "the code of this function is not in the image"
    flow = kernel.arch.flow(data[0], np.arange(start, end, dtype=np.uint64))
    place = 0
    while place < end - start and flow.size[place]:
        target = int(flow.target[place])
        if data[0][place] == opcode and not start <= target < end and place > 8:
            return start + place
        place += int(flow.size[place])
    raise AssertionError("it leads nowhere")


def _redirected(edit: Edit, at: int, opcode: int, target: int, technique: str) -> Label:
    """Another call or jump in the place of the one at ``at``."""
    _branch(edit, at, opcode, target)
    return label_of(technique, at, 1)


def switch_redirected(edit: Edit) -> Label:
    """What decides on system calls goes to another one's function for one number."""
    at = _leaving(edit, "x64_sys_call", JUMP)
    return _redirected(edit, at, JUMP, symbol(edit, "__x64_sys_getpid"), "system call decided otherwise")


def entry_code_redirected(edit: Edit) -> Label:
    """The code that system calls enter at calls a module."""
    at = _leaving(edit, "entry_SYSCALL_64_after_hwframe", CALL)
    return _redirected(edit, at, CALL, module_code(edit), "code of entry calls a module")


def call_inside_redirected(edit: Edit) -> Label:
    """A call inside of ``show_map_vma`` leads to foreign executable memory: a module."""
    at = _leaving(edit, "show_map_vma", CALL)
    return _redirected(edit, at, CALL, module_code(edit), "call inside of what prints areas")


def jump_inside_elsewhere(edit: Edit) -> Label:
    """A jump to a module inside of a function that has nothing to do with /proc."""
    at = _leaving(edit, "wake_up_new_task", CALL)
    return _redirected(edit, at, JUMP, module_code(edit), "jump inside of another function")


def jump_through_register(edit: Edit) -> Label:
    """Inside of ``mem_rw``'s caller a constant is loaded and gone to: memory that nobody owns."""
    at = _leaving(edit, "show_map_vma", CALL)
    edit.write(at, b"\x48\xb8" + heap(edit).to_bytes(8, "little") + b"\xff\xe0")
    return label_of("address loaded and gone to", at + 10, 1)


def breakpoint_inside(edit: Edit) -> Label:
    """A breakpoint inside of ``show_map_vma``, and no kprobe."""
    kernel, at = edit.kernel, _leaving(edit, "show_map_vma", CALL)
    start = symbol(edit, "show_map_vma")
    data, _ = kernel.space.gather(np.array([start], np.uint64), at - start)
    flow = kernel.arch.flow(data[0], np.arange(start, at, dtype=np.uint64))
    places, place = [0], 0
    while flow.size[place] and place + int(flow.size[place]) < at - start:
        place += int(flow.size[place])
        places.append(place)
    edit.write(start + places[-1], b"\xcc")
    return label_of("breakpoint inside of a function", start + places[-1], 1)


def _rename_in_tree(edit: Edit, at: int, other: int) -> None:
    """The nodes of a module in the two trees of ``mod_tree`` say that they are another's."""
    kernel = edit.kernel
    root = symbol(edit, "mod_tree") + kernel.offset("mod_tree_root", "root.tree")
    for copy in range(2):
        stack = [root + 8 * copy]
        link = kernel.offset("mod_tree_node", "node.node") + copy * kernel.sizeof("rb_node")
        while stack:
            where = stack.pop()
            node = edit.get(where)
            if not node:
                continue
            left, right = edit.at("rb_node", node, "rb_left"), edit.at("rb_node", node, "rb_right")
            if edit.get(edit.at("mod_tree_node", node - link, "mod")) == at:
                edit.put(edit.at("mod_tree_node", node - link, "mod"), other)
            stack += [left, right]


def _unlink(edit: Edit, link: int) -> None:
    after, before = edit.get(link), edit.get(link + 8)
    edit.put(before, after)
    edit.put(after + 8, before)
    edit.put(link, POISON)
    edit.put(link + 8, POISON + 0x22)


def module_unlisted(edit: Edit, *, repaired: bool = False) -> Label:
    """A module taken off the list of modules; repaired: out of /sys/module too."""
    modules = road_of(edit).loaded.modules
    at = int(modules.module[len(modules) // 2])
    _unlink(edit, edit.at("module", at, "list"))
    if repaired:
        _unlink(edit, edit.at("module", at, "mkobj.kobj.entry"))
    return label_of("module off the list" + (" and out of sysfs" if repaired else ""), at, 1)


def module_hidden_everywhere(edit: Edit) -> Label:
    """A module taken off the list, out of /sys/module and out of the tree by address."""
    modules = road_of(edit).loaded.modules.module.tolist()
    assert len(modules) > 1, "no modules"
    at = modules[len(modules) // 2]
    _rename_in_tree(edit, at, modules[0])
    _unlink(edit, edit.at("module", at, "list"))
    _unlink(edit, edit.at("module", at, "mkobj.kobj.entry"))
    return label_of("module in no record", at, 1)


def module_unformed(edit: Edit) -> Label:
    """A module says that it is not formed yet: /proc/modules leaves it out."""
    modules = road_of(edit).loaded.modules
    at = int(modules.module[len(modules) // 2])
    edit.put(edit.at("module", at, "state"), 3, 4)
    return label_of("module says it is unformed", at, 1)


def kprobe_of_nobody(edit: Edit) -> Label:
    """A kprobe on ``show_map_vma`` whose handler lies in foreign memory."""
    head, probe = symbol(edit, "kprobe_table"), heap(edit)
    edit.get(head)
    for path, value in (
        ("hlist.next", 0),
        ("hlist.pprev", head),
        ("list.next", edit.at("kprobe", probe, "list")),
        ("list.prev", edit.at("kprobe", probe, "list")),
        ("addr", symbol(edit, "show_map_vma")),
        ("pre_handler", probe + 0x800),
        ("post_handler", 0),
    ):
        edit.put(edit.at("kprobe", probe, path), value)
    edit.put(head, probe)
    return label_of("kprobe with a foreign handler", probe, 1)


def data_made_executable(edit: Edit) -> Label:
    """A page of a module's data is made executable."""
    road, kernel = road_of(edit), edit.kernel
    assert kernel.root is not None
    leaves = kernel.arch.walk_kernel(kernel.memory, kernel.root).leaves
    leaves = leaves.take(((leaves.allow & ALLOW_EXECUTE) == 0) & (leaves.level == 1))
    parts = module_memory(kernel, road.loaded.modules.module)
    for part in parts:
        for start, end in zip(part.start.tolist(), part.end.tolist(), strict=True):
            inside = np.flatnonzero((leaves.va >= np.uint64(start)) & (leaves.va + np.uint64(4096) <= np.uint64(end)))
            for row in inside.tolist():
                data, ok = kernel.space.gather(leaves.va[row : row + 1], 4096)
                if ok[0] and data.any():
                    entry = int(leaves.entry[row]) & ~bits.NO_EXECUTE
                    edit.overlay.write(int(leaves.where[row]), entry.to_bytes(8, "little"))
                    return label_of("data of the kernel made executable", int(leaves.va[row]), 4096)
    raise AssertionError("no data of a module in pages of its own")


TABLE_EDITS: tuple[Callable[[Edit], Label], ...] = (
    maps_shown_by_module,
    maps_shown_by_other,
    maps_opened_by_heap,
    mem_read_by_module,
    pagemap_walk_replaced,
    maps_entry_replaced,
    inode_operations_copied,
    dentry_operations_copied,
    system_call_replaced,
    exception_replaced,
    exception_by_other_function,
    vector_table_copied,
    kprobe_of_nobody,
)
CODE_EDITS: tuple[Callable[[Edit], Label], ...] = (
    entry_jumps_to_module,
    entry_calls_module,
    entry_calls_tracer,
    breakpoint_at_entry,
    static_call_redirected,
    switch_redirected,
    entry_code_redirected,
    call_inside_redirected,
    jump_inside_elsewhere,
    jump_through_register,
    breakpoint_inside,
    data_made_executable,
)
MODULE_EDITS: tuple[Callable[[Edit], Label], ...] = (module_unlisted, module_hidden_everywhere, module_unformed)
