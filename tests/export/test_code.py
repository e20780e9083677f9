"""Programs and libraries out of memory, and everything that can be executed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st
from support import Edit, again_from_views, needs_user_memory
from tamper.page_edits import ghost_page

from vmaforensics.compare.known_regions import known_regions
from vmaforensics.compare.ranges import mm_of
from vmaforensics.errors import UsageError
from vmaforensics.export.elf.headers import headers_of, laid_out, packed, phdrs_at, size_of_header
from vmaforensics.export.elf.rebuild import RebuiltElf, rebuild
from vmaforensics.export.evidence_folder import write_code, write_elf
from vmaforensics.export.page_source import PageSources
from vmaforensics.export.user_memory import Range, UserMemory

if TYPE_CHECKING:
    from support import Sample, Truth

    from vmaforensics.analysis import Analysis

PAGE = 4096
READELF = shutil.which("readelf")


def mapped(truth: Truth, pid: int, name: bytes) -> list[tuple[int, int, int]]:
    """(start, end, offset) of the VMAs of /proc/PID/maps whose name ends so."""
    found = []
    for line in truth[f"proc/{pid}/maps"].splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].strip().endswith(name):
            start, end = (int(word, 16) for word in words[0].split(b"-"))
            found.append((start, end, int(words[2], 16)))
    return found


def pid_of(truth: Truth, comm: bytes) -> int:
    return next(pid for pid in truth.pids() if truth.get(f"proc/{pid}/comm", b"").strip() == comm)


def rebuilt(analysis: Analysis, pid: int, address: int) -> RebuiltElf:
    views = analysis.views
    memory = UserMemory(analysis.kernel, views, known_regions(views, [mm_of(views, pid)]))
    return rebuild(memory, address, PAGE)


@needs_user_memory
def test_a_library_is_a_file_that_readers_of_elf_take(whole_kernel: Sample, tmp_path: Path) -> None:
    truth = whole_kernel.truth
    pid = pid_of(truth, b"bash")
    areas = mapped(truth, pid, b"libc.so.6")
    found = rebuilt(whole_kernel.analysis, pid, areas[1][0] + 64)
    assert found.base == found.header == areas[0][0]
    assert found.sha256 == hashlib.sha256(found.data.data).hexdigest()
    elf = ELFFile(io.BytesIO(found.data.tobytes()))
    assert elf.num_sections() == 0
    for segment in elf.iter_segments("PT_LOAD"):
        assert segment["p_filesz"] == segment["p_memsz"]
        assert segment["p_offset"] % PAGE == segment["p_vaddr"] % PAGE
        assert segment["p_offset"] + segment["p_filesz"] <= found.data.size
    dynamic: Any = next(elf.iter_segments("PT_DYNAMIC"))
    names = {symbol.name for symbol in dynamic.iter_symbols()}
    assert {"malloc", "printf", "execve"} <= names
    if READELF is not None:
        (tmp_path / "libc").write_bytes(found.data.tobytes())
        done = subprocess.run([READELF, "-lW", tmp_path / "libc"], capture_output=True, check=True, text=True)
        assert not done.stderr
        assert (
            "libc.so.6"
            in subprocess.run([READELF, "-dW", tmp_path / "libc"], capture_output=True, check=True, text=True).stdout
        )


@needs_user_memory
def test_the_code_of_a_program_is_that_of_its_file(whole_kernel: Sample) -> None:
    truth = whole_kernel.truth
    pid = pid_of(truth, b"bash")
    here = Path("/usr/bin/bash")
    found = rebuilt(whole_kernel.analysis, pid, mapped(truth, pid, b"/bash")[0][0])
    if not here.exists():
        pytest.skip("this machine has no bash there")
    theirs = ELFFile(here.open("rb"))
    notes: list[Any] = [note for part in theirs.iter_segments("PT_NOTE") for note in part.iter_notes()]  # type: ignore[attr-defined]
    if found.build_id not in [note["n_desc"] for note in notes]:
        pytest.skip("the guest's bash is not that of this machine")
    for segment, mine in zip(
        theirs.iter_segments("PT_LOAD"), ELFFile(io.BytesIO(found.data.tobytes())).iter_segments("PT_LOAD"), strict=True
    ):
        if not segment["p_flags"] & 2 and not found.segments[0]["missing"] and segment["p_offset"]:
            assert segment.data() == mine.data()[: segment["p_filesz"]]


def test_memory_without_an_elf_header_is_wrong_usage(sample: Sample, whole_kernel: Sample) -> None:
    truth = whole_kernel.truth
    pid = pid_of(truth, b"bash")
    stack = mapped(truth, pid, b"[stack]")[0][0]
    with pytest.raises(UsageError, match="no ELF file is mapped"):
        rebuilt(whole_kernel.analysis, pid, stack)


@needs_user_memory
def test_a_rebuilt_file_has_a_manifest(whole_kernel: Sample, tmp_path: Path) -> None:
    truth = whole_kernel.truth
    pid = pid_of(truth, b"bash")
    analysis = whole_kernel.analysis
    write_elf(analysis.kernel, analysis.views, tmp_path, pid, mapped(truth, pid, b"/bash")[0][0], {"image": "x"})
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    (file,) = manifest["files"]
    assert hashlib.sha256((tmp_path / file["file"]).read_bytes()).hexdigest() == file["sha256"]
    assert file["name"].endswith("/bash")
    assert [part["perms"] for part in file["segments"]] == ["r--", "r-x", "r--", "rw-"]
    assert {path.name for path in tmp_path.iterdir()} == {file["file"], "manifest.json"}


@needs_user_memory
def test_every_executable_region_is_there_and_no_content_twice(whole_kernel: Sample, tmp_path: Path) -> None:
    analysis, truth = whole_kernel.analysis, whole_kernel.truth
    write_code(analysis.kernel, analysis.views, tmp_path, None, 1 << 30, {})
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    for part in manifest["contents"]:
        data = (tmp_path / part["file"]).read_bytes()
        assert part["file"] == f"{hashlib.sha256(data).hexdigest()}.bin"
        assert part["size"] == len(data) == sum(part["pages"].values()) * PAGE
    owners = [owner for part in manifest["contents"] for owner in part["owners"]] + manifest["left_out"]
    known = {(owner["pid"], int(owner["start"], 16)) for owner in owners}
    expected = set()
    for pid in truth.pids():
        for line in truth.get(f"proc/{pid}/maps", b"").splitlines():
            code = re.match(rb"([0-9a-f]+)-[0-9a-f]+ ..x", line)
            if code and not line.endswith(b"[vsyscall]") and pid != truth.capturing:
                expected.add((pid, int(code[1], 16)))
    sharers = {pid for pid, _ in expected} - {pid for pid, _ in known}  # of one mm the lowest pid is named
    assert {pair for pair in expected if pair[0] not in sharers} <= known
    libc = [
        part
        for part in manifest["contents"]
        if part["owners"][0]["name"].startswith("/usr/lib") and "libc.so" in part["owners"][0]["name"]
    ]
    assert len(libc) == 1
    assert len(libc[0]["owners"]) > 20


@needs_user_memory
def test_code_that_only_page_tables_know_is_written_and_marked(whole_kernel: Sample, tmp_path: Path) -> None:
    copy = Edit(whole_kernel.analysis)
    label = ghost_page(copy)
    found = again_from_views(whole_kernel.analysis, copy.overlay)
    lines = write_code(found.kernel, found.views, tmp_path, label.pid, 1 << 30, {})
    assert "hidden rwx" in lines[0]
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    hidden = [owner for part in manifest["contents"] for owner in part["owners"] if owner["hidden"]]
    assert [(owner["pid"], int(owner["start"], 16), owner["shown_by"]) for owner in hidden] == [
        (label.pid, label.start, ["page tables"])
    ]


def test_what_is_more_than_the_bound_is_listed(sample: Sample, tmp_path: Path) -> None:
    analysis = sample.analysis
    write_code(analysis.kernel, analysis.views, tmp_path, None, 0, {})
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert not manifest["contents"]
    assert manifest["left_out"]


HEADER = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0x1000, 64, 999, 0, 64, 56, 2, 64, 9, 8)
LOADS = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x10000, 0, 0x300, 0x1400, 1 << 21) + struct.pack(
    "<IIQQQQQQ", 1, 6, 0x12340, 0x12340, 0, 0x10, 0x2000, 1 << 21
)


def test_segments_are_whole_and_sections_gone() -> None:
    headers = headers_of(HEADER, LOADS)
    fixed, size = laid_out(headers, PAGE)
    first, second = fixed.loads()
    assert (first.offset, first.filesz, first.memsz, first.align) == (0, 0x1400, 0x1400, PAGE)
    assert (second.offset, second.filesz) == (0x2340, 0x2000)
    assert size == 0x4340
    header, at, phdrs = packed(fixed)
    assert (len(header), at, len(phdrs)) == (64, 64, 112)
    assert struct.unpack_from("<Q", header, 40) == (0,)
    assert struct.unpack_from("<HHH", header, 58) == (64, 0, 0)
    again = headers_of(header, phdrs)
    assert (again.ident, again.phdrs, again.entry) == (headers.ident, fixed.phdrs, headers.entry)


def test_a_segment_that_does_not_hold_the_header_is_no_file() -> None:
    # The program header begins within e_ident, and its segment ends within the ELF header.
    page = bytearray(PAGE)
    page[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", page, 32, 5)
    struct.pack_into("<HH", page, 54, 56, 1)
    page[45] = 61

    def read(start: int, length: int) -> Range:
        return Range(np.frombuffer(bytes(page[start - 0x10000 :][:length]), np.uint8), PageSources.zeros(0))

    regions = SimpleNamespace(rows=SimpleNamespace(start=np.array([0x10000], np.uint64)))
    with pytest.raises(UsageError, match="no ELF file"):
        rebuild(cast("UserMemory", SimpleNamespace(regions=regions, read=read, top=1 << 57)), 0x10010, PAGE)


@given(st.binary(min_size=64, max_size=64), st.binary(min_size=56 * 3, max_size=56 * 3))
def test_any_bytes_are_headers_or_an_error(header: bytes, phdrs: bytes) -> None:
    for ident in (header, b"\x7fELF\x02\x01\x01" + header[7:], HEADER[:16] + header[16:]):
        if not size_of_header(ident):
            continue
        with contextlib.suppress(UsageError):
            phdrs_at(ident)
        _, size = laid_out(headers_of(ident, phdrs), PAGE)
        assert size >= 0
