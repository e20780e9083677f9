"""Stacks on the page of a crash: whose are shown, which are one, how they look."""

from __future__ import annotations

import numpy as np

from vmaforensics.arch.registers import CpuState
from vmaforensics.columns.texts import Texts
from vmaforensics.crash.stack_parts import CaseStacks, stack_parts
from vmaforensics.crash.text import _stack
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.stacks.code import Functions
from vmaforensics.views.stacks.cpus import RunQueues
from vmaforensics.views.stacks.frames import End, Frames, How, Stacks
from vmaforensics.views.stacks.stacks import StacksView
from vmaforensics.views.system.modules import Modules

SLEEPS, WAITS, KILLABLE, IDLE = 0x1, 0x2, 0x102, 0x402
NAMES = [b"schedule", b"down_read", b"panic", b"evil\x1b[31m", b"asm_sysvec_reboot", b"halt"]


def case(*stacks: tuple[int, int, list[int]], ends: dict[int, End] | None = None) -> CaseStacks:
    """A stack of each task, (state, CPU or -1, functions by their place in NAMES, innermost first)."""
    count = len(stacks)
    frames = [(row, depth, name) for row, (_, _, names) in enumerate(stacks) for depth, name in enumerate(names)]
    sizes = [len(names) for _, _, names in stacks]
    view = StacksView(
        stacks=Stacks.of(
            task=[0xFFFF_8880_0000_1000 + row for row in range(count)],
            row=range(count),
            cpu=[cpu for _, cpu, _ in stacks],
            first=np.cumsum(sizes) - sizes,
            count=sizes,
            end=[(ends or {}).get(row, End.USER) for row in range(count)],
        ),
        frames=Frames.of(
            stack=[row for row, _, _ in frames],
            depth=[depth for _, depth, _ in frames],
            ip=[0x100 * (name + 1) + 1 for _, _, name in frames],
            function=[name for _, _, name in frames],
            offset=[1] * len(frames),
            sure=[True] * len(frames),
        ),
        functions=Functions.of(
            start=[0x100 * (place + 1) for place in range(len(NAMES))],
            size=[0x20] * len(NAMES),
            module=[-1] * len(NAMES),
        ),
        names=Texts.of(NAMES),
        modules=Modules.zeros(0),
        queues=RunQueues.zeros(0),
        states=(CpuState(cpu=0),),
        state=np.zeros(count, np.int32),
        kinds=("TASK", "IRQ"),
        source="made by hand",
    )
    comms = [b"task%d" % row for row in range(count)]
    pids = [100 + row for row in range(count)]
    tasks = Tasks.of(pid=pids, tgid=pids, comm=comms, state=[state for state, _, _ in stacks])
    return CaseStacks(view=view, tasks=tasks)


def test_the_one_that_died_comes_first_then_cpus_then_those_that_wait() -> None:
    stacks = case((WAITS, -1, [0, 1]), (0, 0, [5]), (0, 1, [2]), (SLEEPS, -1, [0]), (KILLABLE, -1, [0, 1]))
    parts = list(stack_parts(stacks, 1, everyone=False))
    assert [(part.why, [task.pid for task in part.tasks]) for part in parts] == [
        ("died", [102]),
        ("cpu", [101]),
        ("waits", [100, 104]),
    ]


def test_an_idle_kernel_thread_does_not_wait() -> None:
    assert list(stack_parts(case((IDLE, -1, [0])), None, everyone=False)) == []


def test_every_stack_is_there_once_if_asked_for() -> None:
    stacks = case((WAITS, -1, [0, 1]), (SLEEPS, -1, [0]), (IDLE, -1, [0]), (SLEEPS, -1, [0, 1]), (0, 0, [5]))
    parts = list(stack_parts(stacks, None, everyone=True))
    assert sorted(task.pid for part in parts for task in part.tasks) == [100, 101, 102, 103, 104]
    assert [(part.why, part.count) for part in parts] == [("cpu", 1), ("waits", 1), ("other", 2), ("other", 1)]


def test_a_stack_looks_as_the_kernel_prints_it() -> None:
    stacks = case((0, 0, [3, 4, 5]))
    stacks.view.frames.kind[:2] = 1
    stacks.view.frames.how[2] = How.INTERRUPTED
    (part,) = stack_parts(stacks, 0, everyone=False)
    assert list(_stack(part)) == [
        "",
        "Stack of CPU 0: pid 100 (task0), which died",
        "   <IRQ>",
        "    evil\\x1b[31m+0x1/0x20",
        "    asm_sysvec_reboot+0x1/0x20",
        "   </IRQ>",
        "    halt+0x1/0x20  (interrupted here)",
    ]


def test_a_stack_that_breaks_off_says_why_and_how_many_do() -> None:
    stacks = case(
        (0, 0, [0]), (SLEEPS, -1, [0]), (SLEEPS, -1, []), ends={0: End.NO_DATA, 1: End.NO_DATA, 2: End.NO_STACK}
    )
    (part,) = stack_parts(stacks, None, everyone=False)
    assert not part.whole
    assert list(_stack(part))[-1] == "    (no unwind data for this function)"
    assert list(stacks.unfinished()) == [
        "2 stacks could not be followed to the beginning: no unwind data for this function"
    ]


def test_the_cpu_that_ended_the_kernel_is_told_by_its_stack() -> None:
    assert case((0, 0, [5]), (0, 1, [2, 1])).ending_cpu() == 1
    assert case((0, 0, [5]), (SLEEPS, -1, [2, 1])).ending_cpu() is None
    assert case((0, 0, [2]), (0, 1, [2])).ending_cpu() is None


def test_functions_begin_where_an_interrupt_came() -> None:
    stacks = case((0, 0, [2, 4, 5, 1]))
    stacks.view.frames.how[2] = How.INTERRUPTED
    assert stacks.functions(0) == ["panic", "asm_sysvec_reboot", "halt", "down_read"]
    assert stacks.functions(0, from_interrupted=True) == ["halt", "down_read"]
    stacks.view.frames.sure[3] = False
    assert stacks.functions(0, from_interrupted=True) == ["halt"]


def test_stacks_of_cpus_are_shown_where_no_task_can_be_read() -> None:
    made = case((SLEEPS, 0, [4, 5]))
    made.view.stacks.row[:] = -1
    alone = CaseStacks(view=made.view, tasks=Tasks.zeros(0))
    assert [part.why for part in stack_parts(alone, 0, everyone=True)] == ["died"]
