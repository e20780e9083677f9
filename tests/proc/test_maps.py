from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vmaforensics.proc.maps import maps_lines

if TYPE_CHECKING:
    from support import Sample

    from vmaforensics.analysis import Analysis

PAGE_KB = 4


def maps(analysis: Analysis, mm: int) -> bytes:
    return b"".join(maps_lines(analysis.kernel, analysis.views, mm)) if mm else b""


def rows_by_pid(analysis: Analysis) -> dict[int, int]:
    """Row of each task by its pid."""
    return {pid: row for row, pid in enumerate(analysis.views.tasks.pid.tolist())}


def mm_of(analysis: Analysis, pid: int) -> int:
    return int(analysis.views.tasks.mm[rows_by_pid(analysis)[pid]])


def test_maps_are_the_bytes_the_guest_read(sample: Sample) -> None:
    analysis, truth = sample.analysis, sample.truth
    different, compared = [], 0
    for pid in truth.pids():
        if pid == truth.capturing:
            continue
        compared += 1
        if maps(analysis, mm_of(analysis, pid)) != truth[f"proc/{pid}/maps"]:
            different.append(pid)
    assert different == []
    assert compared > 100


def test_maps_of_threads_are_those_the_guest_read_too(sample: Sample) -> None:
    # A process whose first thread has ended shows nothing in its own maps; its other threads show all.
    analysis, truth = sample.analysis, sample.truth
    different, compared = [], 0
    for name in truth:
        hit = re.fullmatch(r"proc/(\d+)/task/(\d+)/maps", name)
        if hit is None or int(hit[1]) == truth.capturing:
            continue
        compared += 1
        if maps(analysis, mm_of(analysis, int(hit[2]))) != truth[name]:
            different.append((int(hit[1]), int(hit[2])))
    assert different == []
    assert compared > 0


def test_the_guest_has_vmas_of_every_sort_in_these_maps(sample: Sample) -> None:
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
    leaders = tasks.take(tasks.leader)
    assert sorted(leaders.pid.tolist()) == sample.truth.pids()
    assert (leaders.pid == leaders.tgid).all()


def test_threads_are_those_of_proc_pid_task(sample: Sample) -> None:
    found: dict[int, list[int]] = {}
    tasks = sample.analysis.views.tasks
    for tgid, pid in zip(tasks.tgid.tolist(), tasks.pid.tolist(), strict=True):
        found.setdefault(tgid, []).append(pid)
    expected = {pid: [int(tid) for tid in sample.truth[f"proc/{pid}/task.ids"].split()] for pid in sample.truth.pids()}
    assert {pid: sorted(tids) for pid, tids in found.items()} == {pid: sorted(tids) for pid, tids in expected.items()}


def test_names_are_those_of_proc_pid_comm(sample: Sample) -> None:
    # proc_task_name (fs/proc/array.c) adds its current job to a worker's comm, and prints the whole name of a
    # kernel thread, of which comm holds the first 15 bytes.
    found, expected = {}, {}
    for pid, row in rows_by_pid(sample.analysis).items():
        comm = sample.truth.get(f"proc/{pid}/comm")
        if comm is not None and not comm.startswith(b"kworker/"):
            found[pid], expected[pid] = (
                bytes(sample.analysis.views.tasks.comm[row]).split(b"\0")[0],
                comm.removesuffix(b"\n")[:15],
            )
    assert found == expected
    assert len(found) > 50


def test_parents_are_those_of_proc_pid_status(sample: Sample) -> None:
    tasks = sample.analysis.views.tasks
    pids = dict(zip(tasks.task.tolist(), tasks.pid.tolist(), strict=True))
    found, expected = {}, {}
    for pid, row in rows_by_pid(sample.analysis).items():
        if tasks.leader[row]:
            found[pid] = pids.get(int(tasks.parent[row]), 0)
            expected[pid] = int(sample.truth.status(pid)["PPid"])
    assert found == expected


def test_counters_are_those_of_proc_pid_status(sample: Sample) -> None:
    views, truth = sample.analysis.views, sample.truth
    mms = views.mms
    stored = {"VmSize": mms.total_vm, "VmLck": mms.locked_vm, "VmData": mms.data_vm, "VmStk": mms.stack_vm}
    wrong: list[tuple[object, ...]] = []
    compared = 0
    for row, pid in enumerate(mms.pid.tolist()):
        status = truth.status(pid)
        if pid == truth.capturing or "VmSize" not in status:
            continue
        compared += 1
        kilobytes = {label: int(status[label].split()[0]) for label in (*stored, "VmExe", "VmLib")}
        for label, column in stored.items():
            if int(column[row]) * PAGE_KB != kilobytes[label]:
                wrong.append((pid, label, int(column[row]), kilobytes[label]))
        # task_mem of fs/proc/task_mmu.c: exec_vm, split in the program's own code and the rest.
        if int(mms.exec_vm[row]) * PAGE_KB != kilobytes["VmExe"] + kilobytes["VmLib"]:
            wrong.append((pid, "exec_vm", int(mms.exec_vm[row]), kilobytes))
    assert wrong == []
    assert compared > 40


def test_the_number_of_vmas_is_the_number_of_lines(sample: Sample) -> None:
    wrong = {}
    mms = sample.analysis.views.mms
    for pid, count in zip(mms.pid.tolist(), mms.map_count.tolist(), strict=True):
        lines = sample.truth[f"proc/{pid}/maps"].split(b"\n")[:-1]
        if pid == sample.truth.capturing or not lines:
            continue
        areas = sum(not line.endswith(b"[vsyscall]") for line in lines)
        if count != areas:
            wrong[pid] = (count, areas)
    assert wrong == {}


def test_marks_of_code_stack_and_arguments_are_those_of_proc_pid_stat(sample: Sample) -> None:
    # Fields 26 to 28 and 45 to 51 of proc(5); 28 is the bottom of the stack.
    mms = sample.analysis.views.mms
    columns = {
        26: mms.start_code,
        27: mms.end_code,
        28: mms.start_stack,
        45: mms.start_data,
        46: mms.end_data,
        47: mms.start_brk,
        48: mms.arg_start,
        49: mms.arg_end,
        50: mms.env_start,
        51: mms.env_end,
    }
    wrong, compared = [], 0
    for row, pid in enumerate(mms.pid.tolist()):
        raw = sample.truth[f"proc/{pid}/stat"]
        fields = raw[raw.rindex(b")") + 2 :].split()
        if pid == sample.truth.capturing or not sample.truth[f"proc/{pid}/maps"]:
            continue
        compared += 1
        for number, column in columns.items():
            if int(fields[number - 3]) != int(column[row]):
                wrong.append((pid, number, hex(int(fields[number - 3])), hex(int(column[row]))))
    assert wrong == []
    assert compared > 40
