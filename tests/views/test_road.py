"""The walks of kernel code: modules, tracers, probes, places that are patched, the cache of executable memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from handmade import BASE, CONSTANTS, LINUX, Machine, circular_list

from vmaforensics.arch.branches import BranchKind
from vmaforensics.views.road.code_cache import given_back
from vmaforensics.views.road.code_flow import FoundFlow, Way, find_flow
from vmaforensics.views.road.code_owners import Owner, kernel_and_modules
from vmaforensics.views.road.entrances import read_security_hooks, read_switches, read_system_calls, read_vectors
from vmaforensics.views.road.foreign_code import Pages
from vmaforensics.views.road.functions import road_functions
from vmaforensics.views.road.livepatch import find_replaced
from vmaforensics.views.road.loaded import find_loaded
from vmaforensics.views.road.module_uses import ModuleUses
from vmaforensics.views.road.pointers import Group, Leads, PointerLog, Source
from vmaforensics.views.road.probes import find_probes
from vmaforensics.views.road.sites import SiteKind, find_sites
from vmaforensics.views.road.tracers import find_tracers
from vmaforensics.views.stacks.modules import module_memory

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

LIVE = 0
ROAD = LINUX | {
    "module_layout": "base:* size:u32 text_size:u32",
    "kobject": "name:* entry:list_head",
    "module_kobject": "kobj:kobject mod:*",
    "kset": "list:list_head",
    "module": "state:u8 list:list_head name:u8[56] mkobj:module_kobject core_layout:module_layout"
    " target_list:list_head",
    "module_use": "source_list:list_head target_list:list_head source:* target:*",
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


def log_of(kernel: Kernel) -> PointerLog:
    """An empty log of a kernel all of whose modules are on the list."""
    loaded = find_loaded(kernel).modules
    owners, nothing = kernel_and_modules(kernel, loaded), np.zeros(0, np.uint64)
    return PointerLog(kernel, owners, ModuleUses(kernel, loaded.module), nothing)


def use(machine: Machine, user: int, *used: int) -> None:
    """Puts what a module uses on its list (ref_module)."""
    links = []
    for other in used:
        at = machine.put("module_use", {"source": user, "target": other})
        links.append(machine.at("module_use", at, "target_list"))
    circular_list(machine, machine.at("module", user, "target_list"), *links)


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
    target = part.end - np.uint64(8)
    for unlisted, leads in ((loaded.module, Leads.UNLISTED), (loaded.module[:0], Leads.MODULE)):
        log = PointerLog(kernel, kernel_and_modules(kernel, loaded), ModuleUses(kernel, loaded.module), unlisted)
        log.add(Source.OBJECT, Group(name="inode"), target, target, np.ones(1, np.bool_))
        assert log.table().leads.tolist() == [leads]


def test_modules_that_have_to_do_with_each_other_are_known_by_what_they_use() -> None:
    machine = Machine(ROAD)
    system, library, other, broken = (module(machine, name) for name in (b"system", b"library", b"other", b"broken"))
    for each in (system, library, other, broken):
        machine.set("module", each, "core_layout.size", 0x800)
    listed(machine, system, library, other, broken)
    use(machine, system, library)
    use(machine, library)
    use(machine, other)
    machine.set("module", broken, "target_list.next", 0x10)
    kernel = machine.kernel()
    uses = ModuleUses(kernel, find_loaded(kernel).modules.module)
    ask = np.array([system, library, system, other, broken, 0, other], np.uint64)
    beside = np.array([library, system, other, library, other, other, 0], np.uint64)
    assert uses.related(ask, beside).tolist() == [True, True, False, False, True, False, False]
    assert uses.related(ask, ask).tolist() == [True, True, True, True, True, False, True]
    (memory, _) = module_memory(kernel, np.array([other], np.uint64))
    edges = np.array([memory.start[0], memory.end[0] - 1, machine.room(8)], np.uint64)
    assert uses.of(edges).tolist() == [other, other, 0]


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
    log = log_of(kernel)
    read_security_hooks(kernel, log)
    assert (log.table().target.tolist(), log.unread) == ([BASE], 1)
    assert not find_replaced(kernel).whole


def code_of(machine: Machine, **functions: bytes) -> None:
    """Functions of the kernel's text, 0x100 bytes apart, and what lies around them."""
    size = 0x100
    start = machine.room(size * (len(functions) + 1), 4096)
    for place, (name, code) in enumerate(functions.items()):
        machine.symbols[name] = start + size * place
        machine.write(start + size * place, code.ljust(size, b"\xcc"))
    end = start + size * len(functions)
    machine.symbols |= {"_stext": start, "_etext": end, "_text": start, "_end": end}


def leading(opcode: bytes, at: int, target: int) -> bytes:
    """A call or jump."""
    return opcode + ((target - at - len(opcode) - 4) % (1 << 32)).to_bytes(4, "little")


def flow_of(machine: Machine, patched: list[int], executable: list[int], *, named: bool = True) -> FoundFlow:
    kernel = machine.kernel()
    pages = Pages.of(va=executable, writable=[False] * len(executable))
    known = np.array(patched, np.uint64)
    owners = kernel_and_modules(kernel, find_loaded(kernel).modules)
    return find_flow(kernel, road_functions(kernel), owners, known, known[:0], pages, named=named)


def test_code_that_leads_out_of_its_function_is_found_unless_a_record_says_so() -> None:
    machine = Machine(ROAD, CONSTANTS)
    code_of(machine, show_map_vma=b"", seq_read=b"\x55\xc3", **{"show_map_vma.cold": b""}, other=b"", last=b"\xc3")
    shows, reads, cold, other = (
        machine.symbols[name] for name in ("show_map_vma", "seq_read", "show_map_vma.cold", "other")
    )
    outside = machine.room(4096, 4096)
    parts = (
        (b"\xe8", reads),  # the beginning of another function
        (b"\x0f\x84", cold + 3),  # the middle of its own part
        (b"\xe8", reads + 1),
        (b"\xe9", outside),
    )
    at, code = shows, b""
    for opcode, target in parts:
        code += leading(opcode, at + len(code), target)
    machine.write(shows, code)
    machine.write(other, b"\x90" * 8 + leading(b"\xe9", other + 8, outside + 16) + b"\xc3")
    found = flow_of(machine, [], [outside])
    ways = {Way.MIDDLE: [shows + 11], Way.OUT: [shows + 16, other + 8]}
    assert {way: found.wrong.at[found.wrong.way == way].tolist() for way in ways} == ways
    assert len(found.wrong) == 3
    kept = flow_of(machine, [shows + 16, other + 8], [outside]).wrong
    assert kept.at.tolist() == [shows + 11]
    assert len(flow_of(machine, [shows + 16, other + 8], [outside], named=False).wrong) == 0
    assert flow_of(machine, [shows + 16], []).wrong.at.tolist() == [shows + 11], "nobody executes what is there"


def test_entry_code_whose_beginning_has_lost_its_name_is_not_all_the_code_before_its_end() -> None:
    machine = Machine(ROAD, CONSTANTS)
    code_of(machine, show_map_vma=b"\xc3", other=b"\x90" * 16 + b"\xc3", entry=b"\x90\xc3", last=b"\xc3")
    bounds = {"__entry_text_start": machine.symbols["entry"], "__entry_text_end": machine.symbols["last"]}
    machine.symbols |= bounds
    size = 0x100  # bytes of a function, each an instruction of its own
    assert flow_of(machine, [], []).instructions == 2 * size
    for lost in bounds:
        del machine.symbols[lost]
        assert flow_of(machine, [], []).instructions == size, lost
        machine.symbols |= bounds


def test_a_breakpoint_is_none_of_the_filler_and_a_constant_may_be_gone_to() -> None:
    machine = Machine(ROAD, CONSTANTS)
    loads = b"\x48\xb8" + (BASE + 0x40_0000).to_bytes(8, "little") + b"\xff\xe0"
    code_of(machine, show_map_vma=b"\x90\xcc\x90\xc3", mem_read=b"\x90\x90", pagemap_read=loads, last=b"\xc3")
    found = flow_of(machine, [], [])
    shows, reads = machine.symbols["show_map_vma"], machine.symbols["pagemap_read"]
    assert found.wrong.at.tolist() == [shows + 1, reads + 10]
    assert found.wrong.way.tolist() == [Way.STOPPED, Way.CONSTANT]
    machine.drop(shows)
    lost = flow_of(machine, [], [])
    assert (len(lost.wrong), lost.lost) == (0, 3)


def test_a_switch_that_goes_elsewhere_than_its_table_is_misled() -> None:
    machine = Machine(ROAD, CONSTANTS)
    calls = {f"__x64_sys_{name}": b"\xc3" for name in ("read", "write")}
    code_of(machine, x64_sys_call=b"", **calls, seq_read=b"\xc3", last=b"\xc3")
    start, read, write, other = (machine.symbols[name] for name in ("x64_sys_call", *calls, "seq_read"))
    table = machine.symbols["sys_call_table"] = machine.room(16)
    for place, function in enumerate((read, write)):
        machine.word(table + 8 * place, function)
    machine.symbols["behind_the_table"] = table + 16
    for goes, leads in ((write, Leads.FUNCTION), (other, Leads.OTHER), (read, Leads.OTHER)):
        code = b"\x85\xf6\x75\x05" + leading(b"\xe9", start + 4, read)
        machine.write(start, code + leading(b"\xe9", start + 9, goes))
        kernel = machine.kernel()
        log = log_of(kernel)
        read_switches(kernel, log, np.zeros(0, np.uint64))
        rows = log.table()
        assert rows.target.tolist() == [read, goes]
        assert rows.leads.tolist() == [Leads.FUNCTION, leads]
        assert (rows.at.tolist(), log.cut_short) == ([start + 4, start + 9], [])


def test_what_lies_behind_a_table_of_system_calls_is_none_of_it() -> None:
    # Tables of compiled switches have no symbols; one lay behind ia32_sys_call_table of a built 5.10.
    machine = Machine(ROAD, CONSTANTS)
    code_of(machine, __x64_sys_read=b"\xc3", __x64_sys_write=b"\xc3", decides=b"\x90" * 32, last=b"\xc3")
    read, write, decides, last = (
        machine.symbols[name] for name in ("__x64_sys_read", "__x64_sys_write", "decides", "last")
    )
    jumps = [decides + 3, decides + 9, decides + 3, decides + 7]
    table = machine.symbols["sys_call_table"] = machine.room(64)
    machine.symbols["behind_the_table"] = table + 64
    for words, held in (
        ([read, write, 0, *jumps], 2),
        ([read, write, *jumps], 2),
        ([read, write, last, *jumps], 3),  # what an intruder put into the last element
        ([read, write, decides + 3, decides + 9, decides + 3], 5),
        ([read, *jumps, write], 6),
    ):
        for place in range(8):
            machine.word(table + 8 * place, words[place] if place < len(words) else 0)
        kernel = machine.kernel()
        log = log_of(kernel)
        read_system_calls(kernel, log)
        assert log.table().target.tolist() == words[:held]


def test_gates_lead_to_the_functions_that_belong_there_and_cpus_to_the_kernel_s_own_table() -> None:
    machine = Machine(ROAD, CONSTANTS)
    code_of(machine, asm_exc_divide_error=b"\xc3", asm_exc_debug=b"\xc3", stub=b"\xc3", seq_read=b"\xc3", last=b"\xc3")
    first, _, stub, other = (
        machine.symbols[name] for name in ("asm_exc_divide_error", "asm_exc_debug", "stub", "seq_read")
    )
    machine.symbols |= {"__entry_text_start": first, "__entry_text_end": other}
    table = machine.symbols["idt_table"] = machine.room(4096, 4096)
    machine.symbols["_end"] = table + 4096
    copy = machine.room(4096, 4096)
    for number, handler in ((0, first), (1, stub), (32, stub + 1), (33, other)):
        low = handler & 0xFFFF | (handler & 0xFFFF_0000) << 32 | 1 << 47
        machine.word(table + 16 * number, low)
        machine.word(table + 16 * number + 8, handler >> 32)
    descriptor = machine.symbols["idt_descr"] = machine.room(16)
    machine.word(descriptor + 2, table)
    kernel = machine.kernel()
    log = log_of(kernel)
    read_vectors(kernel, log, [table, copy, 0xFFFF_FE00_0000_0000])
    assert log.unread == 1  # what the image lacks the page tables of
    rows = log.table()
    gates = rows.take(rows.source == Source.VECTOR)
    assert gates.leads.tolist() == [Leads.FUNCTION, Leads.OTHER, Leads.INSIDE, Leads.OTHER]
    tables = rows.take(rows.source == Source.VECTOR_TABLE)
    assert tables.leads.tolist() == [Leads.DATA, Leads.DATA, Leads.NOWHERE]
