"""Which function an address is in: those of the kernel, of modules, of compiled BPF."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import LINUX, Machine, circular_list

from vmaforensics.views.stacks.code import read_code

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

SYMBOL = "st_name:u32 st_info:u8 st_other:u8 st_shndx:u16 st_value:u64 st_size:u64"
COMMON = LINUX | {
    "mod_kallsyms": "symtab:* num_symtab:u32 strtab:*",
    "elf64_sym": SYMBOL,
    "module_layout": "base:* size:u32 text_size:u32",
    "module_memory": "base:* mtn:u32 size:u32",
    "bpf_ksym": "start:u64 end:u64 name:u8[32] lnode:list_head",
}
OLD = COMMON | {
    "module": "state:u32 list:list_head name:u8[56] taints:u64 core_layout:module_layout init_layout:module_layout "
    "kallsyms:*"
}
NEW = COMMON | {"module": "state:u32 list:list_head name:u8[56] taints:u64 mem:module_memory[7] kallsyms:*"}


def module(machine: Machine, name: bytes, text: int, size: int) -> int:
    """A module with a function at each 16 bytes of its code, and an alias of the second."""
    strings = b"\0first\0second\0alias\0extern\0"
    names = [(7, text + 16, 1), (1, text, 1), (14, text + 16, 1), (20, 0, 0)]
    table = b"".join(struct.pack("<IBBHQQ", at, 0, 0, section, value, 0) for at, value, section in names)
    symtab, strtab = machine.room(len(table)), machine.room(len(strings))
    machine.write(symtab, table)
    machine.write(strtab, strings)
    kallsyms = machine.put("mod_kallsyms", {"symtab": symtab, "num_symtab": len(names), "strtab": strtab})
    members: dict[str, int | bytes | list[int]] = {"name": name, "kallsyms": kallsyms}
    layout = machine.types.struct("module")
    assert layout is not None
    if "mem" in layout.fields:
        made = machine.put("module", members)
        machine.word(machine.at("module", made, "mem"), text)
        machine.write(machine.at("module", made, "mem") + 12, size.to_bytes(4, "little"))
        return made
    return machine.put("module", members | {"core_layout.base": text, "core_layout.text_size": size})


def linked(machine: Machine, symbol: str, struct_name: str, member: str, *objects: int) -> None:
    """A list of ``objects`` with its head at ``symbol``."""
    head = machine.put("list_head")
    machine.symbols[symbol] = head
    circular_list(machine, head, *(machine.at(struct_name, one, member) for one in objects))


def named(kernel: Kernel, *addresses: int) -> list[tuple[bytes, int, int]]:
    """(name, size, module) of the function each address is in; an empty name for none."""
    found = read_code(kernel).name(kernel, np.array(addresses, np.uint64))
    return [
        (b"", 0, -1)
        if row < 0
        else (found.names[row], int(found.functions.size[row]), int(found.functions.module[row]))
        for row in found.row.tolist()
    ]


@pytest.mark.parametrize("structs", [OLD, NEW], ids=["core_layout", "mem"])
def test_functions_of_modules_have_their_modules_symbols(structs: dict[str, str]) -> None:
    machine = Machine(structs, {"MOD_TEXT": 0, "MOD_INIT_TEXT": 4})
    text = machine.room(4096)
    kernel_text = machine.room(4096)
    machine.symbols.update(_stext=kernel_text, f=kernel_text + 16, _etext=kernel_text + 64)
    one, two = module(machine, b"one\0junk", text, 40), module(machine, b"two", text + 1024, 64)
    linked(machine, "modules", "module", "list", one, two)
    asked = (text + 5, text + 20, text + 40, text + 1024, kernel_text + 20, kernel_text + 64, 0x1000)
    assert named(machine.kernel(), *asked) == [
        (b"first", 16, 0),
        (b"second", 24, 0),  # up to the end of the code
        (b"", 0, -1),
        (b"first", 16, 1),
        (b"f", 48, -1),
        (b"", 0, -1),
        (b"", 0, -1),
    ]
    assert read_code(machine.kernel()).modules.name_of(0) == b"one"


def test_compiled_bpf_has_the_name_that_the_kernel_prints() -> None:
    machine = Machine(COMMON)
    code = machine.room(4096)
    programs = [
        machine.put("bpf_ksym", {"start": code, "end": code + 100, "name": b"bpf_prog_6deef7357e7b4530"}),
        machine.put("bpf_ksym", {"start": code + 512, "end": code + 512, "name": b"empty"}),
        machine.put("bpf_ksym", {"start": code + 1024, "end": code + 1124, "name": b"bpf_trampoline_1"}),
    ]
    linked(machine, "bpf_kallsyms", "bpf_ksym", "lnode", *programs)
    assert [name for name, _, _ in named(machine.kernel(), code + 99, code + 100, code + 1030)] == [
        b"bpf_prog_6deef7357e7b4530",
        b"",
        b"bpf_trampoline_1",
    ]


def test_a_list_that_leads_into_itself_ends() -> None:
    machine = Machine(COMMON)
    code = machine.room(4096)
    one = machine.put("bpf_ksym", {"start": code, "end": code + 100, "name": b"one"})
    linked(machine, "bpf_kallsyms", "bpf_ksym", "lnode", one)
    machine.set("bpf_ksym", one, "lnode.next", machine.at("bpf_ksym", one, "lnode"))
    assert named(machine.kernel(), code + 1) == [(b"one", 100, -1)]


def test_symbols_of_a_module_that_are_not_in_the_dump_leave_its_code_without_names() -> None:
    machine = Machine(NEW, {"MOD_TEXT": 0, "MOD_INIT_TEXT": 4})
    text = machine.room(4096)
    one = module(machine, b"one", text, 64)
    machine.set("module", one, "kallsyms", 0xFFFF_8880_7000_0000)
    linked(machine, "modules", "module", "list", one)
    assert named(machine.kernel(), text) == [(b"", 0, -1)]
