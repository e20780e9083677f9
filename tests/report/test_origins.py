"""The machine's name and clock, and where processes come from, against what the guest and its machine said."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

import pytest
from support import FURTHER, ROOT, SAMPLES, Edit, Sample, built, kernel_on, leader

from vmaforensics.errors import MemoryReadError
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.machine import hostname, read_clock
from vmaforensics.report.document.build import build_document
from vmaforensics.words.printable import printable
from vmaforensics.words.times import utc

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.report.document.document import Document

TICKS = 100  # of starttime in /proc/PID/stat, a second (USER_HZ)
EVERY = [*SAMPLES, *FURTHER]
BUILT = sorted((ROOT / "build/images").glob("*.elf")) + sorted((ROOT / "build/images").glob("*noinfo.raw"))


@pytest.fixture(params=EVERY, ids=lambda sample: sample.name)
def kernel_of(request: pytest.FixtureRequest) -> Sample:
    """Each clean image there is; skips one whose excerpt was made before reports told the time."""
    sample: Sample = request.param
    kernel = sample.analysis.kernel
    place = kernel.symbols.get("tk_core") or kernel.symbols.get("timekeeper_data")
    assert place is not None
    try:
        kernel.space.read(place, 8)
    except MemoryReadError:
        pytest.skip("this excerpt does not hold the kernel's clock")
    return sample


@cache
def document_of(name: str) -> Document:
    (sample,) = (sample for sample in EVERY if sample.name == name)
    return build_document(sample.analysis)


def seconds(text: str | None) -> int:
    assert text is not None
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def stat(sample: Sample, pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on."""
    return sample.truth[f"proc/{pid}/stat"].decode("latin-1").rpartition(") ")[2].split()


def test_the_machine_bears_the_name_that_the_guest_gave_it(kernel_of: Sample) -> None:
    """``uname -a`` as the guest printed it when it had set the name: Linux NAME RELEASE …"""
    named = kernel_of.truth["run/log/uname"].split()[1].decode()
    assert document_of(kernel_of.name).kernel.hostname == named


def test_the_clock_is_that_of_the_virtual_machine(kernel_of: Sample) -> None:
    """The recipe starts QEMU's clock at a fixed time, and no guest runs for an hour."""
    base = re.search(r'"-rtc", "base=([^,"]+)', (ROOT / "samples/recipe/qemu.py").read_text())
    assert base
    begun = seconds(f"{base[1]}Z")
    kernel = document_of(kernel_of.name).kernel
    assert begun <= seconds(kernel.booted) < begun + 60
    assert seconds(kernel.booted) < seconds(kernel.clock) < begun + 3600


def test_the_clock_goes_on_from_the_last_process_the_guest_started(kernel_of: Sample) -> None:
    """The truth is written by a process started last; the machine is paused about a second after it ends."""
    kernel = document_of(kernel_of.name).kernel
    running = seconds(kernel.clock) - seconds(kernel.booted)
    last = int(stat(kernel_of, kernel_of.truth.capturing)[19]) / TICKS
    assert last - 1 <= running < last + 120


def test_the_clock_of_a_crashed_kernel_is_its_crashtime() -> None:
    """CRASHTIME is written by the dying kernel itself (crash_save_vmcoreinfo)."""
    crashed = [sample for sample in [*EVERY, *built("debian-5.10-crash")] if "crash" in sample.name]
    if not crashed:
        pytest.skip("no image of a crashed kernel")
    for sample in crashed:
        info = sample.analysis.kernel.vmcoreinfo
        assert info is not None
        document = build_document(sample.analysis)
        assert document.kernel.crashed == utc(int(info.values["CRASHTIME"]))
        if document.kernel.clock is None:
            pytest.skip("this excerpt does not hold the kernel's clock")
        assert document.kernel.clock == document.kernel.crashed


@pytest.mark.parametrize("path", BUILT or [None], ids=lambda path: path.stem if path else "none")
def test_the_time_of_boot_is_what_the_console_tells(path: Path | None) -> None:
    """rtc_hctosys prints the second it sets the clock to; it sets it half a second later (drivers/rtc/class.c)."""
    log = ROOT / "build/work" / path.stem / "serial.log" if path else ROOT
    if path is None or not log.is_file() or log.stat().st_mtime > path.stat().st_mtime:
        pytest.skip("no image that was made here, or not the console's log of its guest")
    told = re.search(r"\[ *([\d.]+)\] .*setting system clock to \S+ UTC \((\d+)\)", log.read_text(errors="replace"))
    if told is None:
        pytest.skip("this kernel sets its clock without a word")
    clock = read_clock(find_kernel(open_image(path)))
    assert clock is not None
    assert abs(clock.booted / 1e9 - (int(told[2]) + 0.5 - float(told[1]))) < 0.2


def test_parents_programs_and_times_of_start_are_those_of_proc(kernel_of: Sample) -> None:
    """ppid and starttime of /proc/PID/stat, and the link /proc/PID/exe."""
    document = document_of(kernel_of.name)
    booted = seconds(document.kernel.booted)
    named = 0
    for process in document.processes:
        fields = stat(kernel_of, process.pid)
        assert process.parent == int(fields[1]), process.pid
        assert abs(seconds(process.started) - booted - int(fields[19]) / TICKS) <= 1, process.pid
        assert int(leader(kernel_of.analysis, process.pid).start) // (10**9 // TICKS) == int(fields[19])
        link = kernel_of.truth.get(f"proc/{process.pid}/exe", b"")
        if link:  # /proc shows none of a process whose first thread has ended
            assert process.exe == printable(link)
            named += 1
        elif process.kind == "kernel":
            assert process.exe == ""
    assert named > 20


def test_a_clock_whose_forms_contradict_each_other_is_not_believed(kernel_of: Sample) -> None:
    """What is damaged is not told; where only the copy in use is, its shadow is."""
    edit = Edit(kernel_of.analysis)
    kernel = kernel_of.analysis.kernel
    times = []
    for _ in range(2):
        clock = read_clock(kernel_on(kernel, edit.overlay))
        if clock is None:
            break
        times.append(clock)
        edit.put(edit.at("timekeeper", clock.address, "offs_real"), clock.booted + 12345)
    else:
        assert read_clock(kernel_on(kernel, edit.overlay)) is None
    assert times[0] == read_clock(kernel)
    assert all(abs(time.now - times[0].now) <= 1 and abs(time.booted - times[0].booted) < 10**9 for time in times)
    found = build_document(edit.again()).kernel
    assert (found.booted, found.clock) == (None, None)


def test_what_is_not_in_the_dump_is_not_made_up(kernel_of: Sample) -> None:
    clean = kernel_of.analysis
    edit = Edit(clean)
    clock = read_clock(clean.kernel)
    assert clock is not None
    edit.drop(clock.address - 4096, 3 * 4096)  # its shadow may be next to it
    pid = next(process.pid for process in document_of(kernel_of.name).processes if process.kind == "user")
    document = build_document(edit.again(), pids=[pid])
    assert (document.kernel.booted, document.kernel.clock, document.processes[0].started) == (None, None, None)


def test_a_host_name_ends_with_its_nul(kernel_of: Sample) -> None:
    edit = Edit(kernel_of.analysis)
    where = edit.at("uts_namespace", kernel_of.analysis.kernel.symbols.get("init_uts_ns") or 0, "name.nodename")
    edit.write(where, b"\x1b[2Jx\0rest")
    changed = edit.again()
    assert hostname(changed.kernel) == b"\x1b[2Jx"
    assert build_document(changed, pids=[1]).kernel.hostname == "\\x1b[2Jx"


def test_times_outside_of_the_calendar_are_left_out() -> None:
    assert utc(0) == "1970-01-01T00:00:00Z"
    assert utc(253402300799) == "9999-12-31T23:59:59Z"
    assert utc(253402300800) is None
    assert utc(1 << 70) is None
