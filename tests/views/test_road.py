"""The walks of kernel code: modules, tracers, probes, places that are patched, the cache of executable memory."""

from __future__ import annotations

import numpy as np
from handmade import BASE, CONSTANTS, LINUX, Machine, circular_list

from vmaforensics.arch.branches import BranchKind
from vmaforensics.views.road.code_cache import given_back
from vmaforensics.views.road.code_owners import Owner, kernel_and_modules
from vmaforensics.views.road.entrances import read_security_hooks
from vmaforensics.views.road.livepatch import find_replaced
from vmaforensics.views.road.loaded import find_loaded
from vmaforensics.views.road.pointers import Group, Leads, PointerLog, Source
from vmaforensics.views.road.probes import find_probes
from vmaforensics.views.road.sites import SiteKind, find_sites
from vmaforensics.views.road.tracers import find_tracers
from vmaforensics.views.stacks.modules import Part, module_memory

LIVE = 0
ROAD = LINUX | {
    "module_layout": "base:* size:u32 text_size:u32",
    "kobject": "name:* entry:list_head",
    "module_kobject": "kobj:kobject mod:*",
    "kset": "list:list_head",
    "module": "state:u8 list:list_head name:u8[56] mkobj:module_kobject core_layout:module_layout",
    "latch_tree_node": "node:rb_node[2]",
    "latch_tree_root": "seq:u64 tree:rb_root[2]",
    "mod_tree_node": "mod:* node:latch_tree_node",
    "mod_tree_root": "root:latch_tree_root",
    "ftrace_hash": "size_bits:u64 buckets:* count:u64",
    "ftrace_func_entry": "hlist:hlist_node ip:u64",
    "ftrace_ops_hash": "notrace_hash:* filter_hash:*",
    "ftrace_ops": "func:* next:* flags:u64 func_hash:* trampoline:* trampoline_size:u64 list:list_head",
    "ftrace_page": "next:* records:* index:u32",
    "dyn_ftrace": "ip:u64 flags:u64",
    "arch_specific_insn": "insn:*",
    "kprobe": "hlist:hlist_node list:list_head addr:* pre_handler:* post_handler:* flags:u32 ainsn:arch_specific_insn",
    "execmem_cache": "busy_areas:maple_tree free_areas:maple_tree",
}


def module(machine: Machine, name: bytes, *, state: int = LIVE) -> int:
    """A module that names itself, with a page of code."""
    at = machine.put("module", {"state": state, "name": name, "core_layout.text_size": 0x800})
    machine.set("module", at, "core_layout.base", machine.room(0x800, 4096))
    machine.set("module", at, "mkobj.mod", at)
    return at


def listed(machine: Machine, *modules: int) -> None:
    """The list of modules."""
    head = machine.symbols["modules"] = machine.put("list_head")
    circular_list(machine, head, *(machine.at("module", at, "list") for at in modules))


def in_sysfs(machine: Machine, *modules: int) -> None:
    """/sys/module."""
    kset = machine.put("kset")
    machine.symbols["module_kset"] = machine.room(8)
    machine.word(machine.symbols["module_kset"], kset)
    circular_list(machine, kset, *(machine.at("module", at, "mkobj.kobj.entry") for at in modules))


def test_a_module_that_only_sysfs_knows_is_a_row_that_is_not_listed() -> None:
    machine = Machine(ROAD)
    seen, hidden = module(machine, b"seen"), module(machine, b"hidden")
    listed(machine, seen)
    in_sysfs(machine, seen, hidden)
    found = find_loaded(machine.kernel())
    assert found.list_whole
    rows = found.modules
    assert dict(zip(rows.module.tolist(), rows.listed.tolist(), strict=True)) == {seen: True, hidden: False}
    assert rows.in_sysfs.all()
    assert rows.credible().all()


def test_code_of_a_module_off_the_list_is_told_apart() -> None:
    machine = Machine(ROAD)
    seen, hidden = module(machine, b"seen"), module(machine, b"hidden")
    listed(machine, seen)
    in_sysfs(machine, seen, hidden)
    kernel = machine.kernel()
    loaded = find_loaded(kernel).modules
    owners = kernel_and_modules(kernel, loaded)
    code, _ = kernel.gather_member("module", "core_layout.base", np.array([seen, hidden], np.uint64))
    assert owners.of(code).tolist() == [Owner.MODULE, Owner.UNLISTED]
    assert owners.of(code + np.uint64(0x800)).tolist() == [Owner.NOBODY, Owner.NOBODY]
    assert owners.name(int(code[1])) == b"hidden"


def test_data_of_a_module_off_the_list_is_told_apart() -> None:
    machine = Machine(ROAD)
    hidden = module(machine, b"hidden")
    machine.set("module", hidden, "core_layout.size", 0x1000)
    listed(machine)
    in_sysfs(machine, hidden)
    kernel = machine.kernel()
    loaded = find_loaded(kernel).modules
    (part, _) = module_memory(kernel, loaded.module)
    nothing = Part(part.start[:0], part.end[:0])
    target = part.end - np.uint64(8)
    for unlisted, leads in ((part, Leads.UNLISTED), (nothing, Leads.MODULE)):
        log = PointerLog(kernel, kernel_and_modules(kernel, loaded), part, unlisted)
        log.add(Source.OBJECT, Group(name="inode"), target, target, np.ones(1, np.bool_))
        assert log.table().leads.tolist() == [leads]


def test_an_entry_is_a_row_if_it_is_patched_or_said_to_be() -> None:
    machine = Machine(ROAD)
    code = machine.room(64)
    machine.write(code, bytes.fromhex("0f1f440000"))
    machine.write(code + 16, bytes.fromhex("e8fb0f0000"))
    machine.write(code + 32, bytes.fromhex("0f1f440000"))
    records = machine.room(48)
    for number, (offset, flags) in enumerate(((0, 0), (16, 0), (32, 1 << 31 | 1))):
        machine.word(records + 16 * number, code + offset)
        machine.word(records + 16 * number + 8, flags)
    page = machine.put("ftrace_page", {"records": records, "index": 3})
    machine.symbols["ftrace_pages_start"] = machine.room(8)
    machine.word(machine.symbols["ftrace_pages_start"], page)
    found = find_sites(machine.kernel())
    assert found.entries == 3
    assert found.sites.at.tolist() == [code + 16, code + 32]
    assert found.sites.kind.tolist() == [BranchKind.CALL, BranchKind.NOP]
    assert found.sites.target.tolist() == [code + 16 + 0x1000, 0]
    assert (found.sites.site == SiteKind.ENTRY).all()


def test_code_that_is_not_in_the_image_is_counted() -> None:
    machine = Machine(ROAD)
    code = machine.room(4096, 4096)
    records = machine.room(16)
    machine.word(records, code)
    page = machine.put("ftrace_page", {"records": records, "index": 1})
    machine.symbols["ftrace_pages_start"] = machine.room(8)
    machine.word(machine.symbols["ftrace_pages_start"], page)
    machine.drop(code)
    found = find_sites(machine.kernel())
    assert (found.entries, found.unread, len(found.sites)) == (0, 1, 0)


def test_a_tracer_with_a_filter_traces_what_is_in_it() -> None:
    machine = Machine(ROAD)
    buckets = machine.room(16)
    entry = machine.put("ftrace_func_entry", {"ip": BASE + 0x123})
    machine.word(buckets + 8, entry)
    filled = machine.put("ftrace_hash", {"size_bits": 1, "buckets": buckets, "count": 1})
    some = machine.put("ftrace_ops_hash", {"filter_hash": filled})
    every = machine.put("ftrace_ops_hash", {"filter_hash": 0})
    end = machine.symbols["ftrace_list_end"] = machine.put("ftrace_ops")
    second = machine.put("ftrace_ops", {"next": end, "func_hash": every, "flags": 1})
    first = machine.put("ftrace_ops", {"next": second, "func_hash": some, "flags": 1})
    machine.symbols["ftrace_ops_list"] = machine.room(8)
    machine.word(machine.symbols["ftrace_ops_list"], first)
    found = find_tracers(machine.kernel())
    assert found.whole
    assert found.ops.ops.tolist() == [first, second]
    assert found.ops.everything.tolist() == [False, True]
    assert found.traced.ip.tolist() == [BASE + 0x123]
    assert found.traced.ops.tolist() == [0]


def test_a_list_of_tracers_that_leads_back_into_itself_ends() -> None:
    machine = Machine(ROAD)
    ops = machine.put("ftrace_ops", {"func_hash": machine.put("ftrace_ops_hash")})
    machine.set("ftrace_ops", ops, "next", ops)
    machine.symbols["ftrace_list_end"] = machine.put("ftrace_ops")
    machine.symbols["ftrace_ops_list"] = machine.room(8)
    machine.word(machine.symbols["ftrace_ops_list"], ops)
    found = find_tracers(machine.kernel())
    assert not found.whole
    assert found.ops.ops.tolist() == [ops]


def test_every_probe_of_the_table_is_a_row_and_the_one_that_stands_for_others_is_not() -> None:
    machine = Machine(ROAD)
    table = machine.symbols["kprobe_table"] = machine.room(8 * 64)
    handler = machine.symbols["aggr_pre_handler"] = BASE + 0x40
    alone = machine.put("kprobe", {"addr": BASE + 0x100, "pre_handler": BASE + 0x50})
    machine.set("kprobe", alone, "list.next", machine.at("kprobe", alone, "list"))
    shared = machine.put("kprobe", {"addr": BASE + 0x200, "pre_handler": handler})
    child = machine.put("kprobe", {"addr": BASE + 0x200, "pre_handler": BASE + 0x60})
    circular_list(machine, machine.at("kprobe", shared, "list"), machine.at("kprobe", child, "list"))
    machine.word(table + 8 * 5, alone)
    machine.word(table + 8 * 9, shared)
    found = find_probes(machine.kernel())
    assert found.whole
    assert sorted(found.probes.probe.tolist()) == sorted([alone, child])


def test_what_the_cache_of_executable_memory_got_back() -> None:
    machine = Machine(ROAD, CONSTANTS)
    leaf = machine.put("maple_node")
    slots = machine.types.struct("maple_range_64")
    assert slots is not None
    machine.word(leaf + slots.fields["pivot"].offset, 0xFFF)
    machine.word(leaf + slots.fields["pivot"].offset + 8, 0x2FFF)
    machine.word(leaf + slots.fields["slot"].offset + 8, 0x1000)
    machine.set("maple_range_64", leaf, "meta.end", 2)
    cache = machine.symbols["execmem_cache"] = machine.put("execmem_cache")
    machine.set("execmem_cache", cache, "free_areas.ma_root", leaf | 1 << 3 | 0x4 | 0x2)
    machine.set("maple_range_64", leaf, "parent", machine.at("execmem_cache", cache, "free_areas") | 1)
    found = given_back(machine.kernel())
    assert list(zip(found.start.tolist(), found.end.tolist(), strict=True)) == [(0x1000, 0x3000)]


def test_lists_that_lead_nowhere_are_told_not_dropped() -> None:
    machine = Machine(
        ROAD
        | {
            "security_hook_heads": "first:* second:*",
            "security_hook_list": "list:hlist_node hook:*",
            "klp_patch": "mod:* list:list_head obj_list:list_head",
            "klp_object": "node:list_head func_list:list_head",
            "klp_func": "node:list_head old_func:* new_func:*",
        }
    )
    page = machine.room(8192, 4096)
    heads = machine.symbols["security_hook_heads"] = page + 4096 - 8  # the second head lies in the next page
    hook = machine.put("security_hook_list", {"hook": BASE})
    machine.word(heads, hook)
    machine.drop(page + 4096)
    patches = machine.symbols["klp_patches"] = machine.put("list_head")
    machine.set("list_head", patches, "next", machine.at("klp_patch", machine.put("klp_patch"), "list"))
    kernel = machine.kernel()
    nothing = Part(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    log = PointerLog(kernel, kernel_and_modules(kernel, find_loaded(kernel).modules), nothing, nothing)
    read_security_hooks(kernel, log)
    assert (log.table().target.tolist(), log.unread) == ([BASE], 1)
    assert not find_replaced(kernel).whole
