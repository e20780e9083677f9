"""Stacks of tasks and CPUs, made by hand: whole ones, damaged ones, and such as lead astray on purpose."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from handmade_stacks import KERNEL_CS, THREAD_SIZE, USER, USER_IP, USER_SP, Rule, Stacks, registers

from vmaforensics.image.image import Note
from vmaforensics.image.notes import pack_note
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.stacks import starts
from vmaforensics.views.stacks.cpus import RunQueues
from vmaforensics.views.stacks.frames import End, How
from vmaforensics.views.stacks.lines import group_stacks, stack_lines
from vmaforensics.views.stacks.stacks import gather_stacks

if TYPE_CHECKING:
    from vmaforensics.views.stacks.stacks import StacksView


@pytest.fixture
def stacks() -> Stacks:
    """A kernel with some functions more."""
    made = Stacks()
    for number in range(12):
        made.function(f"ordinary{number}", Rule())
    made.function("waits", Rule(sp_offset=24, bp="PREV_SP", bp_offset=-16))
    made.function("loops", Rule(sp="BP", sp_offset=16, bp="PREV_SP", bp_offset=-16))
    made.function("interrupt", Rule(sp_offset=0, kind="regs", signal=True))
    return made


def end(view: StacksView, row: int = 0) -> tuple[End, int, int]:
    """Why a stack ends, and the word that ended it."""
    return End(int(view.stacks.end[row])), int(view.stacks.where[row]), int(view.stacks.value[row])


def test_a_sleeping_task_is_followed_to_user_mode(stacks: Stacks) -> None:
    waits, entry = stacks.code("waits"), stacks.code("entry_SYSCALL_64")
    task = stacks.task(stacks.code("schedule"), waits, 0, 0x77, entry, *USER)
    view = stacks.view()
    assert stack_lines(view, 0) == ["schedule+0x40/0x100", "waits+0x40/0x100", "entry_SYSCALL_64+0x40/0x100"]
    assert view.stacks.task[0] == task
    assert view.stacks.count[0] == 3
    assert End(int(view.stacks.end[0])) == End.USER
    assert (int(view.stacks.user_ip[0]), int(view.stacks.user_sp[0])) == (USER_IP, USER_SP)
    assert view.frames.how.tolist() == [How.SWITCH, How.CALLER, How.CALLER]
    assert view.frames.bp[2] == 0x77
    assert view.frames.sure.all()
    # The registers of user mode lie at the top of the stack.
    assert int(view.stacks.where[0]) == int(view.stacks.low[0]) + THREAD_SIZE - 8 * len(USER)


def test_a_kernel_thread_ends_with_its_first_function(stacks: Stacks) -> None:
    stacks.task(stacks.code("schedule"), stacks.code("ordinary1"), stacks.code("ret_from_fork_asm"))
    view = stacks.view()
    assert stack_lines(view, 0)[-1] == "ret_from_fork_asm+0x40/0x100"
    assert end(view) == (End.BOTTOM, 0, 0)


def test_a_task_that_never_ran_begins_where_it_is_going_to(stacks: Stacks) -> None:
    stacks.task(stacks.code("ret_from_fork_asm", 0), depth=64)
    view = stacks.view()
    assert stack_lines(view, 0) == ["ret_from_fork_asm+0x0/0x100"]
    assert end(view)[0] == End.BOTTOM


def test_the_caller_of_what_never_returns_has_its_own_name(stacks: Stacks) -> None:
    # The call is the last instruction of ordinary1, so that it returns to ordinary2.
    stacks.task(stacks.code("schedule"), stacks.code("ordinary2", 0), stacks.code("ret_from_fork_asm"))
    assert stack_lines(stacks.view(), 0)[1] == "ordinary1+0x100/0x100"


def test_a_dead_task_has_no_stack_though_its_pointer_leads_to_someone_elses(stacks: Stacks) -> None:
    stacks.task(stacks.code("schedule"), stacks.code("ret_from_fork_asm"))
    other = stacks.stack() + 4096
    stacks.add(0, other)
    view = stacks.view()
    assert end(view, 1) == (End.NO_STACK, 0, 0)
    assert view.stacks.count.tolist() == [2, 0]
    assert stack_lines(view, 1) == ["(the task is dead and has given its stack back)"]


def test_a_stack_pointer_that_does_not_rise_ends_the_walk(stacks: Stacks) -> None:
    low = stacks.stack()
    frame = low + THREAD_SIZE - 512
    # The frame pointer leads to itself: the same frame for ever.
    stacks.machine.word(frame, frame)
    stacks.machine.word(frame + 8, stacks.code("loops"))
    stacks.task(stacks.code("loops"), bp=frame, stack=low, depth=128)
    view = stacks.view()
    assert end(view)[0] == End.LOOP
    assert view.stacks.count[0] == 2


def test_a_frame_pointer_to_the_stack_of_another_task_is_not_followed(stacks: Stacks) -> None:
    other = stacks.stack()
    place = other + THREAD_SIZE - 64
    stacks.machine.word(place + 8, stacks.code("ordinary1"))
    stacks.task(stacks.code("loops"), bp=place)
    stacks.add(other, other + 4096)
    view = stacks.view()
    assert end(view) == (End.OUTSIDE, place + 8, 0)
    assert stack_lines(view, 0) == ["loops+0x40/0x100", f"(leads out of the stack: {place + 8:#x})"]


def test_a_stack_pointer_outside_of_the_tasks_own_stack_is_not_believed(stacks: Stacks) -> None:
    other = stacks.stack()
    stacks.add(stacks.stack(), other + 4096)
    stacks.add(stacks.stack(), 0xFFFF_8880_7000_0000)  # nothing there
    stacks.add(stacks.stack(), 0x10)
    view = stacks.view()
    assert [end(view, row)[:2] for row in range(3)] == [
        (End.OUTSIDE, other + 4096),
        (End.OUTSIDE, 0xFFFF_8880_7000_0000),
        (End.OUTSIDE, 0x10),
    ]


def test_a_page_that_is_not_in_the_dump_is_said(stacks: Stacks) -> None:
    low = stacks.stack()
    stacks.task(stacks.code("schedule"), stack=low, depth=512 + 7)  # the last word of its page
    stacks.machine.drop(low + THREAD_SIZE - 4096)
    stacks.add(stacks.stack(), low + THREAD_SIZE - 4096)
    lost = stacks.task(stacks.code("schedule"))
    view = stacks.view()
    assert lost
    assert end(view) == (End.UNREADABLE, low + THREAD_SIZE - 4096, 0)
    assert view.stacks.count[0] == 1


def test_a_return_to_what_is_no_code_is_no_frame(stacks: Stacks) -> None:
    stacks.task(stacks.code("schedule"), 0x4141_4141_4141_4141)
    stacks.task(stacks.code("schedule"), 0)
    view = stacks.view()
    assert end(view)[0::2] == (End.NO_CODE, 0x4141_4141_4141_4141)
    assert end(view, 1)[0] == End.NO_CODE
    assert view.stacks.count.tolist() == [1, 1]


def test_endless_recursion_is_cut(stacks: Stacks) -> None:
    stacks.task(*[stacks.code("ordinary1")] * 1000)
    view = stacks.view()
    assert end(view)[0] == End.TOO_DEEP
    assert int((view.frames.how != How.GUESS).sum()) == 256


def test_a_function_without_unwind_data_ends_the_stack_and_the_rest_is_marked_as_a_guess(stacks: Stacks) -> None:
    stacks.function("odd", Rule(kind="undefined"))
    back = stacks.call("ordinary3", "ordinary4")
    stacks.task(stacks.code("odd"), 5, back, 6, stacks.code("ordinary5"))
    view = stacks.view()
    assert stack_lines(view, 0) == [
        "odd+0x40/0x100",
        "? ordinary3+0x40/0x100",
        "(no unwind data for this function)",
    ]
    assert view.frames.sure.tolist() == [True, False]


def test_an_unproven_caller_makes_all_above_it_unsure(stacks: Stacks) -> None:
    text_end = stacks.machine.symbols["_etext"]
    trampoline = stacks.machine.room(256) + 16
    assert trampoline > text_end
    low = stacks.stack()
    frame = low + THREAD_SIZE - 256
    stacks.machine.word(frame, 0)
    stacks.machine.word(frame + 8, stacks.code("ordinary1"))
    stacks.machine.word(frame + 16, stacks.code("ret_from_fork_asm"))
    stacks.task(trampoline, bp=frame, stack=low, depth=64)
    view = stacks.view()
    assert stack_lines(view, 0) == [
        f"{trampoline:#x}",
        "? ordinary1+0x40/0x100  (frame pointer assumed)",
        "? ret_from_fork_asm+0x40/0x100",
    ]


def test_an_interrupt_is_followed_from_its_stack_to_the_tasks(stacks: Stacks) -> None:
    low, irq = stacks.stack(), stacks.stack()
    task = stacks.add(low, low + 64, on_cpu=1)
    stacks.runs(task)
    pointer = stacks.machine.room(8)
    stacks.machine.word(pointer, irq + THREAD_SIZE - 8)
    stacks.machine.symbols["hardirq_stack_ptr"] = pointer
    stacks.function("switches", Rule(sp="[SP]", sp_offset=0))
    top = low + THREAD_SIZE
    user = top - 8 * len(USER)
    for place, value in enumerate(USER):
        stacks.machine.word(user + 8 * place, value)
    stacks.machine.word(user - 8, stacks.code("entry_SYSCALL_64"))
    inner = registers(stacks.code("ordinary2", 0), user - 8, cs=KERNEL_CS)
    for place, value in enumerate(inner):
        stacks.machine.word(user - 512 + 8 * place, value)
    stacks.machine.word(user - 520, stacks.code("interrupt"))
    # On the IRQ stack: a return into the function that switched, and the old stack pointer.
    stacks.machine.word(irq + THREAD_SIZE - 24, stacks.code("switches"))
    stacks.machine.word(irq + THREAD_SIZE - 16, user - 512)
    view = stacks.view(stacks.cpu(ip=stacks.code("ordinary1"), sp=irq + THREAD_SIZE - 24))
    assert stack_lines(view, 0) == [
        "<IRQ>",
        "ordinary1+0x40/0x100",
        "switches+0x40/0x100",
        "</IRQ>",
        "interrupt+0x40/0x100",
        "ordinary2+0x0/0x100",
        "entry_SYSCALL_64+0x40/0x100",
    ]
    assert view.stacks.cpu[0] == 0
    assert int(view.frames.registers[3]) == user - 512
    assert How(int(view.frames.how[0])) == How.REGISTERS
    assert How(int(view.frames.how[3])) == How.INTERRUPTED


def test_a_sleeping_task_is_on_no_stack_of_a_cpu(stacks: Stacks) -> None:
    irq = stacks.stack()
    pointer = stacks.machine.room(8)
    stacks.machine.word(pointer, irq + THREAD_SIZE)
    stacks.machine.symbols["hardirq_stack_ptr"] = pointer
    stacks.machine.word(irq + 72, stacks.code("ordinary1"))
    stacks.task(stacks.code("loops"), bp=irq + 64)
    assert end(stacks.view())[0] == End.OUTSIDE


def test_a_cpu_in_user_mode_has_no_frames(stacks: Stacks) -> None:
    low = stacks.stack()
    stacks.runs(stacks.add(low, low + 64, on_cpu=1))
    view = stacks.view(stacks.cpu(ip=USER_IP, sp=USER_SP, cs=0x33))
    assert view.stacks.count[0] == 0
    assert End(int(view.stacks.end[0])) == End.USER
    assert int(view.stacks.user_ip[0]) == USER_IP


def test_a_running_task_without_registers_is_said_and_guessed(stacks: Stacks) -> None:
    back = stacks.call("ordinary3", "ordinary4")
    stacks.runs(stacks.task(stacks.code("schedule"), back))
    stacks.machine.set("task_struct", stacks.tasks[0], "on_cpu", 1)
    view = stacks.view()
    assert stack_lines(view, 0) == ["? ordinary3+0x40/0x100", "(on a CPU whose registers are not in the image)"]


def test_in_a_switch_the_stack_pointer_says_whose_registers_they_are(stacks: Stacks) -> None:
    before = stacks.task(stacks.code("schedule"), stacks.code("ret_from_fork_asm"))
    after = stacks.task(stacks.code("schedule"), stacks.code("ordinary1"), stacks.code("ret_from_fork_asm"))
    stacks.machine.set("task_struct", before, "on_cpu", 1)
    stacks.machine.set("task_struct", after, "on_cpu", 1)
    stacks.runs(before)  # still the current one, but the CPU is on the other's stack
    low = stacks.machine.kernel().u64(stacks.machine.at("task_struct", after, "stack"))
    sp = low + THREAD_SIZE - 16
    view = stacks.view(stacks.cpu(ip=stacks.code("ordinary2"), sp=sp))
    assert stack_lines(view, 0) == ["schedule+0x40/0x100", "ret_from_fork_asm+0x40/0x100"]
    assert stack_lines(view, 1)[0] == "ordinary2+0x40/0x100"
    assert view.stacks.cpu.tolist()[1] == 0


def test_the_caller_of_a_function_without_unwind_data_is_where_a_call_of_it_returns(stacks: Stacks) -> None:
    stacks.function("__crash_kexec", Rule(kind="undefined"))
    back = stacks.call("ordinary6", "__crash_kexec")
    decoy = stacks.call("ordinary7", "ordinary8")
    low = stacks.stack()
    stacks.runs(stacks.add(low, low + 64, on_cpu=1))
    sp = low + THREAD_SIZE - 8 * 24
    for place, value in ((2, decoy), (9, back), (10, stacks.code("ret_from_fork_asm"))):
        stacks.machine.word(sp + 8 * place, value)
    view = stacks.view(stacks.cpu(ip=stacks.code("__crash_kexec"), sp=sp))
    assert stack_lines(view, 0) == [
        "__crash_kexec+0x40/0x100",
        "ordinary6+0x40/0x100  (call instruction found)",
        "ret_from_fork_asm+0x40/0x100",
    ]
    assert view.frames.sure.all()


@pytest.mark.parametrize("kind", ["end", "undefined"])
def test_a_cpu_in_a_thunk_is_in_the_function_that_jumped_there(stacks: Stacks, kind: str) -> None:
    stacks.function("__x86_indirect_thunk_rax", Rule(kind=kind))
    low = stacks.stack()
    stacks.runs(stacks.add(low, low + 64, on_cpu=1))
    sp = low + THREAD_SIZE - 16
    stacks.machine.word(sp, stacks.code("ordinary1"))
    stacks.machine.word(sp + 8, stacks.code("ret_from_fork_asm"))
    view = stacks.view(stacks.cpu(ip=stacks.code("__x86_indirect_thunk_rax", 0), sp=sp))
    assert [line.split("+")[0] for line in stack_lines(view, 0)] == [
        "__x86_indirect_thunk_rax",
        "ordinary1",
        "ret_from_fork_asm",
    ]


def test_a_jump_to_nowhere_came_from_the_call_on_top_of_the_stack(stacks: Stacks) -> None:
    back = stacks.call("ordinary6", "ordinary7")
    low = stacks.stack()
    stacks.runs(stacks.add(low, low + 64, on_cpu=1))
    sp = low + THREAD_SIZE - 16
    stacks.machine.word(sp, back)
    stacks.machine.word(sp + 8, stacks.code("ret_from_fork_asm"))
    view = stacks.view(stacks.cpu(ip=0xDEAD_BEEF, sp=sp))
    assert stack_lines(view, 0)[:2] == [
        "0xdeadbeef",
        "ordinary6+0x40/0x100  (return address at the stack pointer)",
    ]
    assert end(view)[0] == End.BOTTOM


def test_a_crashing_kernel_says_itself_which_notes_are_whose(stacks: Stacks) -> None:
    low = stacks.stack()
    sleeper = stacks.task(stacks.code("schedule"), stacks.code("ret_from_fork_asm"))
    task = stacks.add(low, low + 64, on_cpu=1)
    stacks.runs(sleeper, task)
    stacks.machine.set("task_struct", sleeper, "on_cpu", 1)
    stacks.machine.word(low + THREAD_SIZE - 8, stacks.code("ret_from_fork_asm"))
    words = registers(stacks.code("ordinary1"), low + THREAD_SIZE - 8, cs=KERNEL_CS)
    status = bytes(112) + struct.pack("<27Q", *words, *[0] * 6) + bytes(8)
    variable, area = stacks.machine.room(8), stacks.machine.room(1024, align=512)
    stacks.machine.word(variable, area)
    stacks.machine.symbols["crash_notes"] = variable
    step = stacks.machine.kernel().u64(stacks.machine.symbols["__per_cpu_offset"] + 8)
    stacks.machine.write(area + step, pack_note(Note(name="CORE", type=1, desc=status)))
    # In the dump the only note is the first; it is of CPU 1 all the same.
    view = stacks.view(replace(stacks.cpu(ip=1, sp=2), table_register=None))
    assert [state.cpu for state in view.states] == [1]
    assert view.stacks.cpu.tolist() == [0, 1]
    assert [End(end) for end in view.stacks.end.tolist()] == [End.NOT_SAVED, End.BOTTOM]
    assert stack_lines(view, 1) == ["ordinary1+0x40/0x100", "ret_from_fork_asm+0x40/0x100"]


def test_idle_tasks_have_rows_of_their_own(stacks: Stacks) -> None:
    stacks.task(stacks.code("schedule"), stacks.code("ret_from_fork_asm"))
    low = stacks.stack()
    idle = stacks.machine.put("task_struct", {"stack": low, "on_cpu": 1})
    stacks.runs(idle)
    stacks.machine.set("rq", stacks.machine.symbols["runqueues"], "idle", idle)
    stacks.machine.word(low + THREAD_SIZE - 8, stacks.code("ret_from_fork_asm"))
    view = stacks.view(stacks.cpu(ip=stacks.code("ordinary1"), sp=low + THREAD_SIZE - 8))
    assert view.stacks.row.tolist() == [0, -1]
    assert view.stacks.task[1] == idle
    assert view.stacks.cpu.tolist() == [-1, 0]
    assert stack_lines(view, 1) == ["ordinary1+0x40/0x100", "ret_from_fork_asm+0x40/0x100"]


def test_a_kernel_without_unwind_data_is_followed_by_frame_pointers_and_that_is_said() -> None:
    stacks = Stacks(form=0)
    stacks.function("a")
    stacks.function("b")
    low = stacks.stack()
    frame = low + THREAD_SIZE - 512
    for place, value in ((0, frame + 32), (8, stacks.code("a")), (32, (frame + 64) | 1)):
        stacks.machine.word(frame + place, value)
    stacks.machine.word(frame + 40, stacks.code("b"))
    for place, value in enumerate(USER):
        stacks.machine.word(frame + 64 + 8 * place, value)
    stacks.task(stacks.code("schedule"), bp=frame, stack=low, depth=128)
    view = stacks.view()
    assert view.source == "frame pointers"
    assert stack_lines(view, 0) == [
        "schedule+0x40/0x100",
        "? a+0x40/0x100  (frame pointer assumed)",
        "? b+0x40/0x100  (frame pointer assumed)",
    ]
    assert End(int(view.stacks.end[0])) == End.USER


def test_stacks_that_are_alike_are_one_group(stacks: Stacks) -> None:
    for other in ("ordinary1", "ordinary2", "ordinary1", "ordinary1"):
        stacks.task(stacks.code("schedule"), stacks.code(other), stacks.code("ret_from_fork_asm"))
    groups = group_stacks(stacks.view(), range(4))
    assert [group.rows for group in groups] == [(0, 2, 3), (1,)]
    assert groups[1].lines[1] == "ordinary2+0x40/0x100"


def test_names_out_of_the_image_cannot_act_on_a_terminal(stacks: Stacks) -> None:
    stacks.function("evil\x1b[2J", Rule(kind="end"))
    stacks.task(stacks.code("evil\x1b[2J"))
    assert stack_lines(stacks.view(), 0) == ["evil\\x1b[2J+0x40/0x100"]


def test_no_tasks_are_no_stacks() -> None:
    view = Stacks().view()
    assert (len(view.stacks), len(view.frames)) == (0, 0)


@pytest.mark.parametrize("form", [0, 1, 2, 3, 4])
def test_nothing_on_a_stack_or_in_the_tables_makes_it_fail(form: int) -> None:
    """Words of chance, many of them addresses of stacks, code and tables; some pages are not in the dump."""
    chance = random.Random(form)
    for _ in range(20):
        stacks = Stacks(form=form)
        for number in range(20):
            stacks.function(
                f"f{number}", chance.choice([Rule(), Rule(sp="BP", sp_offset=16, bp="PREV_SP", bp_offset=-16)])
            )
        lows = [stacks.stack() for _ in range(4)]
        text = stacks.machine.symbols["_stext"]
        likely = [low + 8 * chance.randrange(2048) for low in lows for _ in range(8)]
        likely += [text + chance.randrange(20 * 256) for _ in range(40)] + [0, 1, (1 << 64) - 1, 1 << 63]
        for low in lows:
            words = [chance.choice([*likely, chance.getrandbits(64)]) for _ in range(2048)]
            stacks.machine.write(low, struct.pack("<2048Q", *words))
            stacks.add(low, low + 8 * chance.randrange(2048), on_cpu=chance.randrange(2))
        stacks.runs(*stacks.tasks)
        kernel = stacks.kernel()
        for name in ("__start_orc_unwind_ip", "__start_orc_unwind"):
            for _ in range(chance.randrange(20)):
                place = (kernel.symbols.get(name) or text) + chance.randrange(128)
                stacks.machine.write(place, chance.randbytes(1))
        stacks.machine.drop(chance.choice(lows) + 4096 * chance.randrange(4))
        states = [
            stacks.cpu(ip=chance.choice(likely), sp=chance.choice(likely), bp=chance.choice(likely), cpu=cpu)
            for cpu in range(4)
        ]
        tasks = Tasks.of(task=stacks.tasks, pid=range(1, 5), ok=[True] * 4)
        view = gather_stacks(stacks.machine.kernel(), tasks, states)
        assert int(view.stacks.count.sum()) == len(view.frames) <= 4 * 300
        for row in range(4):
            first = int(view.stacks.first[row])
            assert (view.frames.stack[first : first + int(view.stacks.count[row])] == row).all()
            assert stack_lines(view, row)


def test_without_any_run_queue_no_task_is_on_a_cpu(stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks.runs(stacks.task(stacks.code("schedule"), stacks.call("ordinary3", "ordinary4")))
    stacks.machine.set("task_struct", stacks.tasks[0], "on_cpu", 1)
    monkeypatch.setattr(starts, "read_run_queues", lambda _: RunQueues.zeros(0))
    assert stacks.view().stacks.cpu.tolist() == [-1]
