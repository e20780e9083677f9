"""The gate area, protection keys and flags of VMAs that are x86's own."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import LINUX, Machine

from vmaforensics.arch.interface import GateArea
from vmaforensics.arch.x86_64 import special_pages

VSYSCALL = 0xFFFFFFFF_FF600000
GATE = "vm_start:u64 vm_end:u64 vm_flags:u64"
NONE = 2  # vsyscall=none of the command line


def machine_with_gate(mode: int, *, unaligned: bool = False) -> Machine:
    """A kernel whose ``vsyscall_mode`` is ``mode``, and lies 4 bytes into a word if ``unaligned``."""
    machine = Machine({"vm_area_struct": GATE, "mode": "low:u32 high:u32"})
    words = {"low": NONE, "high": mode} if unaligned else {"low": mode, "high": NONE}
    machine.symbols["vsyscall_mode"] = machine.put("mode", words) + 4 * unaligned
    gate = {"vm_start": VSYSCALL, "vm_end": VSYSCALL + 4096, "vm_flags": 4}
    machine.symbols["gate_vma"] = machine.put("vm_area_struct", gate)
    return machine


@pytest.mark.parametrize("unaligned", [False, True])
@pytest.mark.parametrize("mode", [0, 1])
def test_the_gate_area_is_the_variable_of_the_kernel(mode: int, unaligned: bool) -> None:
    found = special_pages.gate_area(machine_with_gate(mode, unaligned=unaligned).kernel())
    assert found == GateArea(start=VSYSCALL, end=VSYSCALL + 4096, flags=4, name=b"[vsyscall]")


@pytest.mark.parametrize("unaligned", [False, True])
def test_there_is_none_where_the_command_line_said_so(unaligned: bool) -> None:
    assert special_pages.gate_area(machine_with_gate(NONE, unaligned=unaligned).kernel()) is None


@pytest.mark.parametrize("lost", ["vsyscall_mode", "gate_vma"])
def test_a_gate_area_that_is_not_in_the_dump_is_not_made_up(lost: str) -> None:
    machine = machine_with_gate(0)
    machine.symbols[lost] = 0xFFFF_9000_0000_0000
    assert special_pages.gate_area(machine.kernel()) is None


@pytest.mark.parametrize(("flags", "shown"), [(4, True), (5, False)])
def test_a_kernel_that_lists_no_variables_has_it_by_its_contents(flags: int, shown: bool) -> None:
    """VM_EXEC alone is vsyscall=xonly; what may be read too is emulated if the page is mapped, and off if not."""
    machine = machine_with_gate(0)
    gate = machine.symbols.pop("gate_vma")
    assert special_pages.gate_area(machine.kernel()) is None  # nothing says where to search
    machine.symbols.pop("vsyscall_mode")
    machine.symbols["_stext"] = gate & -4096
    machine.set("vm_area_struct", gate, "vm_flags", flags)
    found = special_pages.gate_area(machine.kernel())
    assert (found is not None) == shown
    assert found is None or (found.start, found.flags) == (VSYSCALL, 4)


def test_processes_of_64_bits_have_it_by_the_flag_of_their_context() -> None:
    machine = Machine({"mm_struct": "context:mm_context_t", "mm_context_t": LINUX["mm_context_t"]})
    mms = [machine.put("mm_struct", {"context.flags": flags}) for flags in (2, 1, 3)]
    addresses = np.array([*mms, 0xFFFF_9000_0000_0000], np.uint64)
    assert special_pages.has_gate_area(machine.kernel(), addresses).tolist() == [True, False, True, False]


def test_up_to_5_10_by_not_being_of_32_bits() -> None:
    machine = Machine({"mm_struct": "context:mm_context_t", "mm_context_t": "ia32_compat:u16"})
    mms = [machine.put("mm_struct", {"context.ia32_compat": compat}) for compat in (0, 1)]
    assert special_pages.has_gate_area(machine.kernel(), np.array(mms, np.uint64)).tolist() == [True, False]


def test_a_kernel_that_does_not_say_gives_it_to_all() -> None:
    machine = Machine({"mm_struct": "mmap:*"})
    mms = np.array([machine.put("mm_struct", {})], np.uint64)
    assert special_pages.has_gate_area(machine.kernel(), mms).tolist() == [True]


def test_the_fixed_page_is_one_page() -> None:
    addresses = np.array([VSYSCALL - 1, VSYSCALL, VSYSCALL + 4095, VSYSCALL + 4096], np.uint64)
    assert special_pages.in_fixed_pages(addresses).tolist() == [False, True, True, False]


def test_keys_are_in_use_where_a_process_has_one() -> None:
    machine = Machine({"mm_struct": "context:mm_context_t", "mm_context_t": "pkey_allocation_map:u16"})
    without, has = (machine.put("mm_struct", {"context.pkey_allocation_map": keys}) for keys in (0, 1))
    kernel = machine.kernel()
    assert not special_pages.has_protection_keys(kernel, np.array([without], np.uint64))
    assert special_pages.has_protection_keys(kernel, np.array([without, has], np.uint64))
    assert special_pages.protection_key(5 << 32 | 0x77) == 5


@pytest.mark.parametrize("built", [False, True])
def test_bit_37_is_a_shadow_stack_only_where_the_kernel_has_them(built: bool) -> None:
    kernel = Machine({"mm_struct": "mmap:*"} | ({"thread_shstk": "base:u64"} if built else {})).kernel()
    assert special_pages.has_shadow_stacks(kernel) is built
    assert special_pages.shadow_stack_flag(kernel) == (1 << 37 if built else 0)
    assert special_pages.vm_flag_names(kernel).get(37) == ("SHADOW_STACK" if built else None)
