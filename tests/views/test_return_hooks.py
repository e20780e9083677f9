"""Return addresses that tracers replaced, on stacks made by hand."""

from __future__ import annotations

import pytest
from handmade import Machine
from handmade_stacks import STRUCTS, THREAD_SIZE, Rule, Stacks

from vmaforensics.views.stacks.frames import End
from vmaforensics.views.stacks.lines import stack_lines

TASK = STRUCTS["task_struct"]
COMMON = STRUCTS | {"llist_node": "next:*", "llist_head": "first:*"}
RETHOOK = COMMON | {
    "rethook_node": "rcu:u64 llist:llist_node rethook:* ret_addr:u64 frame:u64",
    "task_struct": TASK + " rethooks:llist_head",
}
KRETPROBE = COMMON | {
    "kretprobe_instance": "llist:llist_node rp:* ret_addr:* fp:*",
    "task_struct": TASK + " kretprobe_instances:llist_head",
}
ENTRY = "ret:u64 func:u64 calltime:u64 retp:*"
GRAPH = COMMON | {"ftrace_ret_stack": ENTRY, "task_struct": TASK + " curr_ret_stack:i32 ret_stack:*"}

WHOLE = ["schedule+0x40/0x100", "ordinary1+0x40/0x100", "ret_from_fork_asm+0x40/0x100"]


def traced(structs: dict[str, str], trampoline: str) -> tuple[Stacks, int, int]:
    """(stacks, a task whose first call returns to the trampoline, the address of that word)."""
    stacks = Stacks(machine=Machine(structs, pages=256))
    for number in range(6):
        stacks.function(f"ordinary{number}", Rule())
    stacks.function(trampoline, Rule(kind="end"))
    low = stacks.stack()
    words = (stacks.code("schedule"), stacks.code(trampoline, 0), stacks.code("ret_from_fork_asm"))
    task = stacks.task(*words, stack=low)
    return stacks, task, low + THREAD_SIZE - 2 * 8


@pytest.mark.parametrize(
    ("structs", "struct_name", "head", "frame", "trampoline"),
    [
        (RETHOOK, "rethook_node", "rethooks.first", "frame", "arch_rethook_trampoline"),
        (KRETPROBE, "kretprobe_instance", "kretprobe_instances.first", "fp", "__kretprobe_trampoline"),
    ],
    ids=["rethook", "kretprobe"],
)
def test_a_probe_on_a_return_is_undone(
    structs: dict[str, str], struct_name: str, head: str, frame: str, trampoline: str
) -> None:
    stacks, task, place = traced(structs, trampoline)
    machine = stacks.machine
    real = {"ret_addr": stacks.code("ordinary1"), frame: place}
    oldest = machine.put(struct_name, real)
    # A second probe on the same function found the first one's trampoline; another word is another function's.
    second = machine.put(struct_name, {"ret_addr": stacks.code(trampoline, 0), frame: place})
    other = machine.put(struct_name, {"ret_addr": stacks.code("ordinary2"), frame: place - 64})
    nodes = [machine.at(struct_name, node, "llist") for node in (other, second, oldest)]
    machine.set("task_struct", task, head, nodes[0])
    machine.word(nodes[0], nodes[1])
    machine.word(nodes[1], nodes[2])
    view = stacks.view()
    assert stack_lines(view, 0) == WHOLE
    assert view.frames.sure.all()
    assert End(int(view.stacks.end[0])) == End.BOTTOM


def test_hooks_of_all_tasks_in_one_table_are_told_by_their_task() -> None:
    structs = COMMON | {"kretprobe_instance": "hlist:hlist_node rp:* ret_addr:* task:* fp:*"}
    stacks, task, place = traced(structs, "kretprobe_trampoline")
    machine = stacks.machine
    table = machine.symbols["kretprobe_inst_table"] = machine.room(64 * 8)
    rows = [
        machine.put("kretprobe_instance", {"ret_addr": stacks.code("ordinary2"), "task": task + 64, "fp": place}),
        machine.put("kretprobe_instance", {"ret_addr": stacks.code("ordinary3"), "task": task, "fp": place + 8}),
        machine.put("kretprobe_instance", {"ret_addr": stacks.code("ordinary1"), "task": task, "fp": place}),
    ]
    machine.word(table + 8 * 17, rows[0])
    machine.set("kretprobe_instance", rows[0], "hlist.next", rows[1])
    machine.set("kretprobe_instance", rows[1], "hlist.next", rows[2])
    assert stack_lines(stacks.view(), 0) == WHOLE


def test_the_graph_tracers_array_is_read_from_its_newest_entry() -> None:
    stacks, task, place = traced(GRAPH, "return_to_handler")
    array = stacks.machine.room(4096)
    entries = (
        (stacks.code("ordinary1"), place),
        (stacks.code("return_to_handler", 0), place),  # reached by a jump from the function before
        (stacks.code("ordinary3"), place - 64),
        (stacks.code("ordinary4"), place),  # left over: behind the last
    )
    for number, (real, word) in enumerate(entries):
        stacks.machine.word(array + 32 * number, real)
        stacks.machine.word(array + 32 * number + 24, word)
    stacks.machine.set("task_struct", task, "ret_stack", array)
    stacks.machine.set("task_struct", task, "curr_ret_stack", 15)  # words in use, as from 6.11 on
    assert stack_lines(stacks.view(), 0) == WHOLE


@pytest.mark.parametrize("head", [0, 0xFFFF_8880_7000_0000, 0x10])
def test_a_tracer_without_a_record_ends_the_stack(head: int) -> None:
    stacks, task, place = traced(RETHOOK, "arch_rethook_trampoline")
    stacks.machine.set("task_struct", task, "rethooks.first", head)
    view = stacks.view()
    trampoline = stacks.code("arch_rethook_trampoline", 0)
    assert End(int(view.stacks.end[0])) == End.HOOK
    assert (int(view.stacks.where[0]), int(view.stacks.value[0])) == (place, trampoline)
    assert stack_lines(view, 0)[0] == "schedule+0x40/0x100"


def test_a_list_of_hooks_that_leads_into_itself_ends() -> None:
    stacks, task, place = traced(RETHOOK, "arch_rethook_trampoline")
    node = stacks.machine.put("rethook_node", {"ret_addr": stacks.code("ordinary1"), "frame": place - 8})
    link = stacks.machine.at("rethook_node", node, "llist")
    stacks.machine.word(link, link)
    stacks.machine.set("task_struct", task, "rethooks.first", link)
    assert End(int(stacks.view().stacks.end[0])) == End.HOOK
