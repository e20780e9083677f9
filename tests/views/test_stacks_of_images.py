"""Stacks of real kernels: every sleeping task to its beginning, the dying CPU as the kernel itself printed it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import CRASHED, ROOT, SAMPLES, WHOLE, Sample

from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.views.log.log import read_log
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.tasks import walk_tasks
from vmaforensics.views.stacks.frames import End
from vmaforensics.views.stacks.lines import frame_line, stack_lines
from vmaforensics.views.stacks.stacks import gather_stacks

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.stacks.stacks import StacksView

CRASHES = sorted((ROOT / "build/images").glob("debian-*-crash*.kdump"))
TASK_DEAD = 0x80
TRACE_LINE = re.compile(rb"^ (\? )?([\w.]+\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[\w+\])?)$")
DUMPER = re.compile(r"dump_stack|v?panic\+|__crash_kexec\+")  # on the way down the kernel printed, then went on


def unwound(path: Path) -> tuple[Kernel, Tasks, StacksView]:
    """The stacks of an image."""
    image = open_image(path)
    kernel = find_kernel(image)
    tasks = walk_tasks(kernel, ProblemLog())
    return kernel, tasks, gather_stacks(kernel, tasks, image.cpus)


@pytest.mark.skipif(not WHOLE, reason="no whole image of a real kernel in build/images")
@pytest.mark.parametrize("sample", WHOLE, ids=lambda sample: sample.name)
def test_every_stack_is_unwound_to_its_beginning(sample: Sample) -> None:
    _, tasks, view = unwound(sample.image_path)
    ends = np.array([End(end).whole for end in view.stacks.end.tolist()])
    assert ends[view.stacks.row < 0].all()  # idle tasks, by the notes of the dump
    dead = (tasks.state & TASK_DEAD) != 0
    assert (view.stacks.end[: len(tasks)][dead & ~ends[: len(tasks)]] == End.NO_STACK).all()
    assert ends[: len(tasks)][~dead].all()
    assert view.frames.sure.all()


@pytest.mark.skipif(not WHOLE, reason="no whole image of a real kernel in build/images")
@pytest.mark.parametrize("sample", WHOLE, ids=lambda sample: sample.name)
def test_a_task_in_a_system_call_returns_to_where_the_guest_says(sample: Sample) -> None:
    """``/proc/PID/syscall``: number, six arguments, stack pointer, instruction pointer."""
    _, tasks, view = unwound(sample.image_path)
    compared = 0
    for row in np.flatnonzero(tasks.leader & (tasks.mm != 0) & (tasks.pid != sample.truth.capturing)).tolist():
        shown = sample.truth.get(f"proc/{tasks.pid[row]}/syscall", b"").split()
        if len(shown) != 9:
            continue
        assert End(int(view.stacks.end[row])) == End.USER
        assert (int(view.stacks.user_sp[row]), int(view.stacks.user_ip[row])) == (int(shown[7], 16), int(shown[8], 16))
        compared += 1
    assert compared > 20


@pytest.mark.image
@pytest.mark.parametrize("sample", [*(WHOLE or SAMPLES), *CRASHED], ids=lambda sample: sample.name)
def test_every_task_waits_where_the_guest_says(sample: Sample) -> None:
    """``/proc/PID/stack``, less the scheduler (stack_trace_save_tsk), of each task that did not run since."""
    if not any(name.endswith("/stack") for name in sample.truth):
        pytest.skip("the record of this guest is of a time when it had no stacks")
    kernel, tasks, view = unwound(sample.image_path)
    first, last = kernel.symbols.get("__sched_text_start"), kernel.symbols.get("__sched_text_end")
    assert first is not None
    assert last is not None
    switches = [kernel.gather_member("task_struct", path, tasks.task)[0] for path in ("nvcsw", "nivcsw")]
    compared = 0
    for row in range(len(tasks)):
        pid, tgid = int(tasks.pid[row]), int(tasks.tgid[row])
        names = (f"proc/{tgid}/task/{pid}/status", f"proc/{pid}/status")
        status = next((sample.truth[name] for name in names if name in sample.truth), b"")
        counted = [int(count) for count in re.findall(rb"voluntary_ctxt_switches:\s*(\d+)", status)]
        if counted != [int(counts[row]) for counts in switches] or pid == sample.truth.capturing:
            continue
        if view.stacks.cpu[row] >= 0:  # woken, and not switched from yet
            continue
        start = int(view.stacks.first[row])
        frames = range(start, start + int(view.stacks.count[row]))
        lines = [frame_line(view, frame) for frame in frames if not first <= int(view.frames.ip[frame]) < last]
        shown = sample.truth[f"proc/{tgid}/task/{pid}/stack"].decode().splitlines()
        assert [f"[<0>] {line}" for line in lines] == shown, (pid, tasks.comm[row])
        compared += 1
    assert compared > 100


@pytest.mark.skipif(not CRASHES, reason="no crash dump in build/images")
@pytest.mark.parametrize("path", CRASHES, ids=lambda path: path.stem)
def test_the_dying_cpu_was_where_the_kernels_own_trace_says(path: Path) -> None:
    kernel, _, view = unwound(path)
    log = read_log(kernel)
    assert log is not None
    texts = [log.text(row) for row in range(len(log.records))]
    start = max(row for row, text in enumerate(texts) if text.startswith(b"Call Trace:"))
    lines = [line for text in texts[start + 1 :] for line in text.split(b"\n")]
    matches = [found for line in lines if (found := TRACE_LINE.match(line))]
    printed = [found[2].decode() for found in matches if not found[1]]
    (dying,) = [
        row
        for row in range(len(view.stacks))
        if view.stacks.cpu[row] >= 0 and "__crash_kexec" in stack_lines(view, row)[0]
    ]
    assert [line for line in stack_lines(view, dying) if not DUMPER.match(line)] == [
        line for line in printed if not DUMPER.match(line)
    ]
    assert len(printed) > 8
    # The registers that the log shows beneath the trace: RIP: 0033:0x…, RSP: 002b:….
    text = b"\n".join(lines)
    found = re.search(rb"RIP: 0033:0x([0-9a-f]+)[\s\S]*?RSP: 002b:([0-9a-f]+)", text)
    assert found
    assert (int(view.stacks.user_ip[dying]), int(view.stacks.user_sp[dying])) == (int(found[1], 16), int(found[2], 16))
