"""What the kernel keeps of itself: run queues, modules, how it ended, its machine."""

from __future__ import annotations

import pytest
from handmade import LINUX, Machine, circular_list
from support import WHOLE, Sample

from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.views.system.ending import read_ending
from vmaforensics.views.system.machine_facts import read_machine_facts
from vmaforensics.views.system.modules import read_modules
from vmaforensics.views.system.running import read_running

STRUCTS = LINUX | {
    "rq": "clock:u64 curr:* idle:*",
    "module_layout": "base:* size:u32",
    "module": "state:u32 list:list_head name:u8[56] taints:u64 core_layout:module_layout init_layout:module_layout",
}
# From 6.4 on: mem[] by kind of memory.
NEWER = STRUCTS | {
    "module_memory": "base:* size:u32",
    "module": "state:u32 list:list_head name:u8[56] taints:u64 mem:module_memory[3]",
}


def _variable(machine: Machine, name: str, value: int) -> None:
    machine.symbols[name] = machine.room(24)
    machine.word(machine.symbols[name], value)


def _per_cpu(machine: Machine, queues: list[int]) -> None:
    """The run queues of CPUs: the variable is that of CPU 0, the others lie elsewhere."""
    table = machine.room(8 * len(queues))
    for cpu, queue in enumerate(queues):
        machine.word(table + 8 * cpu, queue - queues[0])
    machine.symbols |= {"__per_cpu_offset": table, "runqueues": queues[0]}
    _variable(machine, "nr_cpu_ids", len(queues))


def test_each_cpu_has_its_task_and_one_that_never_ran_has_none() -> None:
    machine = Machine(STRUCTS)
    task = machine.put("task_struct", {"pid": 7, "tgid": 7, "comm": b"cat"})
    wild = 0xFFFF_8880_7FFF_0000
    _per_cpu(machine, [machine.put("rq", {"curr": curr}) for curr in (task, 0, wild)])
    running = read_running(machine.kernel())
    assert running is not None
    assert running.cpu.tolist() == [0, 2]
    assert (running.ok.tolist(), running.pid.tolist()) == ([True, False], [7, 0])


def test_without_run_queues_nobody_runs() -> None:
    assert read_running(Machine(STRUCTS).kernel()) is None


@pytest.mark.parametrize("structs", [STRUCTS, NEWER], ids=["two layouts", "parts by kind"])
def test_modules_come_in_the_order_of_their_list_with_the_bytes_of_all_parts(structs: dict[str, str]) -> None:
    machine = Machine(structs)
    head = machine.room(16)
    modules = []
    for name, state in ((b"youngest", 0), (b"unformed", 3), (b"oldest", 1)):
        module = machine.put("module", {"name": name, "state": state, "taints": 1 << 12})
        if structs is STRUCTS:
            machine.set("module", module, "core_layout.size", 4096)
            machine.set("module", module, "init_layout.size", 100)
        else:
            for part, size in enumerate((4096, 50, 50)):
                machine.set("module_memory", machine.at("module", module, "mem") + 16 * part, "size", size)
        modules.append(module)
    circular_list(machine, head, *(machine.at("module", module, "list") for module in modules))
    machine.symbols["modules"] = head
    found, problems = read_modules(machine.kernel())
    assert [found.name_of(row) for row in range(len(found))] == [b"youngest", b"oldest"]
    assert (found.size.tolist(), found.state.tolist(), problems) == ([4196, 4196], [0, 1], ())


def test_the_ending_is_what_its_variables_hold() -> None:
    machine = Machine(STRUCTS)
    assert read_ending(machine.kernel()).panic_cpu is None
    _variable(machine, "panic_cpu", 0xFFFF_FFFF)
    _variable(machine, "die_counter", 2)
    _variable(machine, "kexec_crash_image", 0)
    machine.symbols["buf.2"] = machine.room(1024)
    machine.write(machine.symbols["buf.2"], b"sysrq triggered crash\0")
    ending = read_ending(machine.kernel())
    assert (ending.panic_cpu, ending.die_counter, ending.crash_kernel) == (-1, 2, False)
    assert ending.buffers == (b"sysrq triggered crash",)


def test_a_command_line_that_leads_nowhere_is_none() -> None:
    machine = Machine(STRUCTS)
    _variable(machine, "saved_command_line", 0xFFFF_8880_7FFF_0000)
    _variable(machine, "avenrun", 2048 * 3 // 2)
    facts = read_machine_facts(machine.kernel())
    assert (facts.command_line, facts.hardware, facts.cpus) == (None, None, None)
    assert facts.load == (1.5, 0, 0)


@pytest.mark.image
@pytest.mark.parametrize("sample", WHOLE, ids=lambda sample: sample.name)
def test_modules_and_command_line_are_those_of_the_guest(sample: Sample) -> None:
    kernel = find_kernel(open_image(sample.image_path))
    modules, problems = read_modules(kernel)
    ours = [(modules.name_of(row).decode(), int(modules.size[row])) for row in range(len(modules))]
    said = [line.split()[:2] for line in sample.truth["proc/modules"].decode().splitlines()]
    assert (ours, problems) == ([(name, int(size)) for name, size in said], ())
    assert read_machine_facts(kernel).command_line == sample.truth["proc/cmdline"].rstrip(b"\n")
