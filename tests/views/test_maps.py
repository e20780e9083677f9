from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vmaforensics.proc.maps import maps_lines

if TYPE_CHECKING:
    import numpy as np
    from support import Sample

    from vmaforensics.analysis import Analysis

PAGE_KB = 4


def maps(analysis: Analysis, mm: int) -> bytes:
    return b"".join(maps_lines(analysis.kernel, analysis.views, mm)) if mm else b""


def tasks_by_pid(analysis: Analysis) -> dict[int, np.void]:
    return {int(one["pid"]): one for one in analysis.views.tasks}


def test_maps_are_the_bytes_the_guest_read(sample: Sample) -> None:
    analysis, truth = sample.analysis, sample.truth
    tasks = tasks_by_pid(analysis)
    different, compared = [], 0
    for pid in truth.pids():
        if pid == truth.capturing:
            continue
        compared += 1
        if maps(analysis, int(tasks[pid]["mm"])) != truth[f"proc/{pid}/maps"]:
            different.append(pid)
    assert different == []
    assert compared > 100


def test_maps_of_threads_are_those_the_guest_read_too(sample: Sample) -> None:
    # A process whose first thread has ended shows nothing in its own maps; its other threads show all.
    analysis, truth = sample.analysis, sample.truth
    tasks = tasks_by_pid(analysis)
    different, compared = [], 0
    for name in truth:
        hit = re.fullmatch(r"proc/(\d+)/task/(\d+)/maps", name)
        if hit is None or int(hit[1]) == truth.capturing:
            continue
        compared += 1
        if maps(analysis, int(tasks[int(hit[2])]["mm"])) != truth[name]:
            different.append((int(hit[1]), int(hit[2])))
    assert different == []
    assert compared > 0


def test_the_guest_has_areas_of_every_sort_in_these_maps(sample: Sample) -> None:
    # Else byte equality would prove little.
    everything = b"".join(raw for name, raw in sample.truth.items() if name.endswith("/maps"))
    for sort in (
        rb"\[heap\]",
        rb"\[stack\]",
        rb"\[vdso\]",
        rb"\[vvar",
        rb" \(deleted\)\n",
        rb"\\012",
        rb"/SYSV",
        rb"socket:\[",
        rb"anon_inode:",
        rb"(?m)^00000000-",
        rb" [rwx-]{3}s ",
    ):
        assert re.search(sort, everything), sort


def test_processes_are_those_of_proc(sample: Sample) -> None:
    tasks = sample.analysis.views.tasks
    leaders = tasks[tasks["leader"]]
    assert sorted(leaders["pid"].tolist()) == sample.truth.pids()
    assert (leaders["pid"] == leaders["tgid"]).all()


def test_threads_are_those_of_proc_pid_task(sample: Sample) -> None:
    found: dict[int, list[int]] = {}
    for one in sample.analysis.views.tasks:
        found.setdefault(int(one["tgid"]), []).append(int(one["pid"]))
    expected = {pid: [int(tid) for tid in sample.truth[f"proc/{pid}/task.ids"].split()] for pid in sample.truth.pids()}
    assert {pid: sorted(tids) for pid, tids in found.items()} == {pid: sorted(tids) for pid, tids in expected.items()}


def test_names_are_those_of_proc_pid_comm(sample: Sample) -> None:
    # proc_task_name (fs/proc/array.c) adds its current job to a worker's comm, and prints the whole name of a
    # kernel thread, of which comm holds the first 15 bytes.
    found, expected = {}, {}
    for pid, one in tasks_by_pid(sample.analysis).items():
        comm = sample.truth.get(f"proc/{pid}/comm")
        if comm is not None and not comm.startswith(b"kworker/"):
            found[pid], expected[pid] = bytes(one["comm"]).split(b"\0")[0], comm.removesuffix(b"\n")[:15]
    assert found == expected
    assert len(found) > 50


def test_parents_are_those_of_proc_pid_status(sample: Sample) -> None:
    pids = {int(one["task"]): int(one["pid"]) for one in sample.analysis.views.tasks}
    found, expected = {}, {}
    for pid, one in tasks_by_pid(sample.analysis).items():
        if one["leader"]:
            found[pid] = pids.get(int(one["parent"]), 0)
            expected[pid] = int(sample.truth.status(pid)["PPid"])
    assert found == expected


def test_counters_are_those_of_proc_pid_status(sample: Sample) -> None:
    views, truth = sample.analysis.views, sample.truth
    labels = {"total_vm": "VmSize", "locked_vm": "VmLck", "data_vm": "VmData", "stack_vm": "VmStk"}
    wrong, compared = [], 0
    for one in views.mms:
        pid = int(one["pid"])
        status = truth.status(pid)
        if pid == truth.capturing or "VmSize" not in status:
            continue
        compared += 1
        kilobytes = {label: int(status[label].split()[0]) for label in (*labels.values(), "VmExe", "VmLib")}
        for column, label in labels.items():
            if int(one[column]) * PAGE_KB != kilobytes[label]:
                wrong.append((pid, column, int(one[column]), kilobytes[label]))
        # task_mem of fs/proc/task_mmu.c: exec_vm, split in the program's own code and the rest.
        if int(one["exec_vm"]) * PAGE_KB != kilobytes["VmExe"] + kilobytes["VmLib"]:
            wrong.append((pid, "exec_vm", int(one["exec_vm"]), kilobytes))
    assert wrong == []
    assert compared > 40


def test_the_number_of_areas_is_the_number_of_lines(sample: Sample) -> None:
    wrong = {}
    for one in sample.analysis.views.mms:
        pid = int(one["pid"])
        lines = sample.truth[f"proc/{pid}/maps"].split(b"\n")[:-1]
        if pid == sample.truth.capturing or not lines:
            continue
        areas = sum(not line.endswith(b"[vsyscall]") for line in lines)
        if int(one["map_count"]) != areas:
            wrong[pid] = (int(one["map_count"]), areas)
    assert wrong == {}


def test_marks_of_code_stack_and_arguments_are_those_of_proc_pid_stat(sample: Sample) -> None:
    # Fields 26 to 28 and 45 to 51 of proc(5); 28 is the bottom of the stack.
    columns = {
        26: "start_code",
        27: "end_code",
        28: "start_stack",
        45: "start_data",
        46: "end_data",
        47: "start_brk",
        48: "arg_start",
        49: "arg_end",
        50: "env_start",
        51: "env_end",
    }
    wrong, compared = [], 0
    for one in sample.analysis.views.mms:
        pid = int(one["pid"])
        raw = sample.truth[f"proc/{pid}/stat"]
        fields = raw[raw.rindex(b")") + 2 :].split()
        if pid == sample.truth.capturing or not sample.truth[f"proc/{pid}/maps"]:
            continue
        compared += 1
        for number, column in columns.items():
            if int(fields[number - 3]) != int(one[column]):
                wrong.append((pid, column, hex(int(fields[number - 3])), hex(int(one[column]))))
    assert wrong == []
    assert compared > 40
