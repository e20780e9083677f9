"""Core files: what debuggers and pyelftools read in them is what the guest itself said."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from support import Edit, again_from_views, needs_user_memory
from tamper.page_edits import ghost_page

from vmaforensics.arch.x86_64.core_registers import _notes, _places
from vmaforensics.cli.main import main
from vmaforensics.compare.ranges import mm_of
from vmaforensics.errors import UsageError
from vmaforensics.export.core.core import core_manifest, make_core, write_core
from vmaforensics.export.page_source import STATES, mapped_pages

if TYPE_CHECKING:
    from support import Sample, Truth

    from vmaforensics.analysis import Analysis

PAGE = 4096
GDB = shutil.which("gdb")


def core_of(analysis: Analysis, pid: int) -> tuple[bytes, dict[str, Any]]:
    """The core file of a process and its manifest."""
    core = make_core(analysis.kernel, analysis.views, analysis.image.cpus, pid)
    with tempfile.TemporaryFile() as stream:
        write_core(analysis.kernel, core, stream)
        stream.seek(0)
        data = stream.read()
    return data, json.loads(core_manifest(analysis.kernel, core, {}))


def pid_of(truth: Truth, comm: bytes) -> int:
    for pid in truth.pids():
        if truth.get(f"proc/{pid}/comm", b"").strip() == comm:
            return pid
    pytest.skip(f"the guest has no process {comm.decode()}")


def ranges_of(truth: Truth, pid: int) -> list[tuple[int, int]]:
    """The VMAs of /proc/PID/maps; the gate area is none."""
    lines = [line.split() for line in truth[f"proc/{pid}/maps"].splitlines()]
    bounds = [tuple(int(word, 16) for word in line[0].split(b"-")) for line in lines if line[-1] != b"[vsyscall]"]
    return [(start, end) for start, end in bounds]


def notes_of(data: bytes) -> list[Any]:
    elf = ELFFile(io.BytesIO(data))
    segments: list[Any] = list(elf.iter_segments("PT_NOTE"))
    return [note for segment in segments for note in segment.iter_notes()]


def raw_notes(data: bytes) -> list[tuple[bytes, int, bytes]]:
    """(name, type, descriptor) of every note."""
    (segment,) = ELFFile(io.BytesIO(data)).iter_segments("PT_NOTE")
    area, at, found = segment.data(), 0, []
    while at < len(area):
        name, size, kind = struct.unpack_from("<III", area, at)
        desc = at + 12 + -(-name // 4) * 4
        found.append((area[at + 12 : at + 12 + name].rstrip(b"\0"), kind, area[desc : desc + size]))
        at = desc + -(-size // 4) * 4
    return found


def test_the_segments_are_the_vmas_of_proc_pid_maps(whole_kernel: Sample) -> None:
    truth = whole_kernel.truth
    pid = pid_of(truth, b"awk-areas")
    data, manifest = core_of(whole_kernel.analysis, pid)
    covered: list[tuple[int, int]] = []
    for segment in ELFFile(io.BytesIO(data)).iter_segments("PT_LOAD"):
        start, end = segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"]
        assert segment["p_filesz"] in (0, segment["p_memsz"])
        covered.append((start, end))
    pages = {page for start, end in covered for page in range(start // PAGE, min(end, start + (1 << 30)) // PAGE)}
    wanted = {page for start, end in ranges_of(truth, pid) for page in range(start // PAGE, end // PAGE)}
    assert wanted <= pages
    assert not manifest["hidden"]


@needs_user_memory
def test_bytes_are_those_of_the_pages_and_what_is_missing_has_none(whole_kernel: Sample) -> None:
    analysis = whole_kernel.analysis
    pid = pid_of(whole_kernel.truth, b"awk-areas")
    data, manifest = core_of(analysis, pid)
    views, mm = analysis.views, mm_of(analysis.views, pid)
    compared = 0
    for segment in ELFFile(io.BytesIO(data)).iter_segments("PT_LOAD"):
        start, length = segment["p_vaddr"], min(segment["p_memsz"], 1 << 24)
        pages = mapped_pages(analysis.kernel, views.mms, views.page_tables, mm, start, start + length)
        if not segment["p_filesz"]:
            assert not pages.has_bytes.any()
            continue
        held = pages.has_bytes
        raw, _ = analysis.kernel.memory.gather(pages.pfn[held] << np.uint64(12), PAGE)
        mine = np.frombuffer(segment.data()[:length], np.uint8).reshape(-1, PAGE)[held]
        assert (mine == raw).all()
        compared += int(held.sum())
    assert compared > 50
    assert sum(manifest["pages"].values()) > compared
    assert {run["state"] for run in manifest["missing"]} <= set(STATES)


def test_registers_are_those_of_proc_pid_syscall(whole_kernel: Sample) -> None:
    """sp and pc are the last two words of /proc/PID/syscall, of a thread that sleeps in a system call."""
    truth, compared = whole_kernel.truth, 0
    for comm in (b"awk-areas", b"awk-threads", b"bash", b"sleep"):
        pid = pid_of(truth, comm)
        words = truth[f"proc/{pid}/syscall"].split()
        if len(words) != 9:
            continue
        data, _ = core_of(whole_kernel.analysis, pid)
        name, kind, desc = raw_notes(data)[0]
        assert (name, kind, len(desc)) == (b"CORE", 1, 336)
        registers = struct.unpack_from("<27Q", desc, 112)
        assert registers[16] == int(words[8], 16)
        assert registers[19] == int(words[7], 16)
        assert struct.unpack_from("<i", desc, 32)[0] == pid
        compared += 1
    assert compared


def test_every_thread_has_a_note(whole_kernel: Sample) -> None:
    truth = whole_kernel.truth
    pid = pid_of(truth, b"awk-threads")
    data, manifest = core_of(whole_kernel.analysis, pid)
    tids = [struct.unpack_from("<i", desc, 32)[0] for _, kind, desc in raw_notes(data) if kind == 1]
    assert (
        tids
        == [int(tid) for tid in truth[f"proc/{pid}/task.ids"].split()]
        == [thread["tid"] for thread in manifest["threads"]]
    )


def test_the_auxiliary_vector_and_the_files_are_those_of_proc(whole_kernel: Sample) -> None:
    truth = whole_kernel.truth
    pid = pid_of(truth, b"bash")
    data, _ = core_of(whole_kernel.analysis, pid)
    (auxv,) = (desc for _, kind, desc in raw_notes(data) if kind == 6)
    assert truth[f"proc/{pid}/auxv"].startswith(auxv) or auxv.startswith(truth[f"proc/{pid}/auxv"])
    (files,) = (note for note in notes_of(data) if note["n_type"] == "NT_FILE")
    mapped = {
        (entry["vm_start"], entry["vm_end"], bytes(name))
        for entry, name in zip(files["n_desc"]["Elf_Nt_File_Entry"], files["n_desc"]["filename"], strict=True)
    }
    lines = [line.split(None, 5) for line in truth[f"proc/{pid}/maps"].splitlines()]
    expected = {
        (*(int(word, 16) for word in line[0].split(b"-")), line[5].strip()) for line in lines if line[-1][:1] == b"/"
    }
    assert mapped == expected
    (info,) = (note["n_desc"] for note in notes_of(data) if note["n_type"] == "NT_PRPSINFO")
    assert (info["pr_pid"], info["pr_fname"].rstrip(b"\0")) == (pid, b"bash")


def test_memory_that_only_page_tables_know_is_a_segment_and_named(whole_kernel: Sample) -> None:
    copy = Edit(whole_kernel.analysis)
    label = ghost_page(copy)
    found = again_from_views(whole_kernel.analysis, copy.overlay)
    data, manifest = core_of(found, label.pid)
    (hidden,) = (part for part in manifest["hidden"] if int(part["start"], 16) == label.start)
    assert hidden["shown_by"] == ["page tables"]
    assert "maple tree" in hidden["missing_in"] or "rbtree" in hidden["missing_in"]
    segments = ELFFile(io.BytesIO(data)).iter_segments("PT_LOAD")
    (segment,) = (part for part in segments if part["p_vaddr"] == label.start)
    assert segment["p_flags"] == 7
    (note,) = (json.loads(desc) for name, _, desc in raw_notes(data) if name == b"VMAFORENSICS")
    assert note == {"hidden": manifest["hidden"]}


def test_a_hidden_vma_of_the_sample_is_in_its_core(tampered: Sample) -> None:
    edit = tampered.edit
    assert edit is not None
    pid, start = int(edit["pid"]), int(str(edit["start"]), 16)
    data, manifest = core_of(tampered.analysis, pid)
    (hidden,) = manifest["hidden"]
    assert int(hidden["start"], 16) == start
    assert {"slab", "page tables"} <= set(hidden["shown_by"])
    assert any(segment["p_vaddr"] == start for segment in ELFFile(io.BytesIO(data)).iter_segments("PT_LOAD"))


def test_a_process_without_memory_has_no_core(sample: Sample) -> None:
    with pytest.raises(UsageError, match="kernel thread"):
        core_of(sample.analysis, 2)
    with pytest.raises(UsageError, match="give --max"):
        make_core(sample.analysis.kernel, sample.analysis.views, (), 1, most=1)


def test_both_files_are_written_or_neither(tampered: Sample, tmp_path: Path) -> None:
    edit = tampered.edit
    assert edit is not None
    target, beside = tmp_path / "core", tmp_path / "core.json"
    beside.write_text("mine")
    arguments = ["core", str(tampered.image_path), "--pid", str(edit["pid"]), "-o", str(target)]
    assert main(arguments) == 14
    assert beside.read_text() == "mine"
    assert not target.exists()
    assert main([*arguments, "--force"]) == 0
    assert target.read_bytes().startswith(b"\x7fELF")
    assert json.loads(beside.read_bytes())["pid"] == int(edit["pid"])


def test_components_in_their_initial_state_are_told_so() -> None:
    """XSAVES leaves the area of a component alone that is in its initial state: what lies there is old."""
    head = b"\xaa" * 512 + struct.pack("<QQ", 4, 1 << 63 | 7).ljust(64, b"\0")
    state = _notes(head, b"\xaa" * 256, _places(head))
    assert state is not None
    (name, kind, legacy), (owner, further, whole) = state.notes
    assert (name, kind, owner, further) == ("CORE", 2, "LINUX", 0x202)
    assert struct.unpack_from("<H", legacy) == (0x37F,)
    assert not any(legacy[160:416])
    assert whole[576:] == b"\xaa" * 256
    assert _notes(b"\xaa" * 576, b"", {}) is None


AVX512 = 1 << 2 | 1 << 5 | 1 << 6 | 1 << 7


@pytest.mark.parametrize("compacted", [True, False])
def test_wide_registers_have_the_places_that_debuggers_know(*, compacted: bool) -> None:
    """Intel SDM volume 1, 13.4.2 and 13.4.3: bounds registers take room where they are compacted too."""
    sizes = {2: 256, 3: 64, 4: 64, 5: 64, 6: 512, 7: 1024, 9: 8}
    standard = {2: 0, 3: 384, 4: 448, 5: 512, 6: 576, 7: 1088, 9: 2112}
    features = AVX512 | 1 << 4 | 1 << 9 | 3
    compact = (1 << 63 | features | 1 << 3) if compacted else 0
    head = bytes(512) + struct.pack("<QQ", features, compact).ljust(64, b"\0")
    behind, at = bytearray(2120), 0
    for number, size in sizes.items():
        place = at if compacted else standard[number]
        behind[place : place + size] = bytes([number]) * size
        at += size
    state = _notes(head, bytes(behind), _places(head))
    assert state is not None
    assert state.left_out == 1 << 4
    area = state.notes[1][2]
    assert len(area) == 2696  # X86_XSTATE_PKRU_SIZE of gdb
    assert struct.unpack_from("<Q", area, 464) == (0x2E7,)
    for number in (2, 5, 6, 7, 9):
        start = 576 + standard[number]
        assert area[start : start + sizes[number]] == bytes([number]) * sizes[number]


def test_a_component_whose_state_is_not_in_the_image_is_left_out() -> None:
    head = bytes(512) + struct.pack("<QQ", 4, 1 << 63 | 4).ljust(64, b"\0")
    state = _notes(head, b"", {})
    assert state is not None
    assert (len(state.notes), state.left_out) == (1, 4)


@needs_user_memory
@pytest.mark.skipif(GDB is None, reason="no gdb is installed")
def test_gdb_opens_the_core_and_unwinds_a_shell(whole_kernel: Sample, tmp_path: Path) -> None:
    truth = whole_kernel.truth
    pid = pid_of(truth, b"bash")
    data, _ = core_of(whole_kernel.analysis, pid)
    (tmp_path / "core").write_bytes(data)

    def gdb(*commands: str, program: Path | None = None) -> str:
        words = [str(GDB), "-nx", "-batch", "-ex", f"set sysroot {tmp_path}"]
        words += ["-ex", f"file {program}"] if program else []
        for command in (f"core-file {tmp_path / 'core'}", *commands):
            words += ["-ex", command]
        done = subprocess.run(words, capture_output=True, timeout=120, check=True, text=True, errors="replace")
        return done.stdout

    words = truth[f"proc/{pid}/syscall"].split()
    start, _ = ranges_of(truth, pid)[0]
    told = gdb("info auxv", "info proc mappings", "print/x $pc", "print/x $sp", f"x/4xb {start:#x}")
    assert f"{int(words[8], 16):#x}" in told
    assert f"{int(words[7], 16):#x}" in told
    assert "AT_SYSINFO_EHDR" in told
    assert f"{start:#x}" in told
    assert "0x7f\t0x45\t0x4c\t0x46" in told
    program = Path("/usr/bin/bash")
    text = next((line for line in truth[f"proc/{pid}/maps"].splitlines() if b"r-xp" in line and b"/bash" in line), b"")
    if not text or not program.exists():
        pytest.skip("the guest's bash is not that of this machine")
    first, offset = int(text.split(b"-")[0], 16), int(text.split()[2], 16)
    here = program.read_bytes()[offset : offset + 16]
    there = bytes.fromhex(
        "".join(
            word[2:]
            for word in gdb(f"x/16xb {first:#x}").replace(":", " ").split()
            if len(word) == 4 and word[:2] == "0x"
        )
    )
    if here != there:
        pytest.skip("the guest's bash is not that of this machine")
    frames = gdb("backtrace", program=program)
    assert "in main ()" in frames
    assert "in wait_for ()" in frames
