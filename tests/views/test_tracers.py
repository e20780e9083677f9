"""Who traces whom, on tasks made by hand."""

from __future__ import annotations

from handmade import LINUX, Machine

from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.processes.tracers import read_tracers

STRUCTS = LINUX | {"task_struct": LINUX["task_struct"] + " ptrace:u32 parent:*"}


def test_a_traced_task_reports_to_its_tracer() -> None:
    machine = Machine(STRUCTS)
    init, debugger = machine.put("task_struct", {"pid": 1}), machine.put("task_struct", {"pid": 8})
    alone = machine.put("task_struct", {"pid": 9, "parent": init, "real_parent": init})
    traced = machine.put("task_struct", {"pid": 10, "parent": debugger, "real_parent": init, "ptrace": 1})
    tracers = read_tracers(machine.kernel(), Tasks.of(task=[alone, traced], ok=[True, True]))
    assert tracers.ok.all()
    assert tracers.ptrace.tolist() == [0, 1]
    assert tracers.parent.tolist() == [init, debugger]
    assert tracers.real_parent.tolist() == [init, init]


def test_a_task_that_is_not_in_the_dump_has_no_tracer_that_is_known() -> None:
    machine = Machine(STRUCTS)
    machine.room(4096)
    lost = machine.put("task_struct", {"ptrace": 1})
    machine.drop(lost)
    tracers = read_tracers(machine.kernel(), Tasks.of(task=[lost], ok=[False]))
    assert tracers.ok.tolist() == [False]
