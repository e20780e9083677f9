"""Files that appear whole or not at all, and pipes that close, for every verb that writes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import TAMPERED

from vmaforensics.cli.main import VERBS
from vmaforensics.errors import ExitCode

RUN = [sys.executable, "-m", "vmaforensics"]
# What to give each verb besides where to write. IMAGE and CASE are put in; CASE is a saved report.
INTO_FILES = {
    "report": ["IMAGE", "--format", "html"],
    "maps": ["IMAGE"],
    "smaps": ["IMAGE"],
    "views": ["IMAGE", "--pid", "1"],
    "pages": ["IMAGE", "--pid", "1"],
    "excerpt": ["IMAGE"],
    "isf": ["IMAGE"],
    "diff": ["CASE", "IMAGE"],
    "crash": ["IMAGE"],
    "what": ["IMAGE", "init_task"],
    "sql": ["CASE", "FROM processes"],
}
TO_STDOUT = {
    **{verb: rest for verb, rest in INTO_FILES.items() if verb != "excerpt"},
    "info": ["IMAGE"],
    "doctor": [],
    "explain": [],
    "plugin-dir": [],
    "completion": ["bash"],
}


def test_every_verb_is_tried() -> None:
    # extract and fleet write folders (test_extract, test_fleet), core a file and its manifest (test_core), scan needs
    # rules (test_scan), and no sample holds what log prints (test_log).
    assert {*INTO_FILES, *TO_STDOUT, "extract", "fleet", "core", "scan", "log"} == set(VERBS)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if not TAMPERED:
        pytest.skip("no bundled sample has been edited")
    case = tmp_path_factory.mktemp("case") / "case.json"
    image = str(TAMPERED[0].image_path)
    subprocess.run([*RUN, "report", image, "--format", "json", "-o", str(case)], timeout=120, check=True)
    return {"IMAGE": image, "CASE": str(case)}


def command(verb: str, rest: list[str], names: dict[str, str], *more: str) -> list[str]:
    return [*RUN, verb, *(names.get(item, item) for item in rest), *more]


def run(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(arguments, capture_output=True, timeout=240, check=False)


@pytest.mark.parametrize("verb", INTO_FILES)
def test_a_file_is_replaced_only_when_that_is_asked_for(verb: str, names: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_bytes(b"mine")
    done = run(command(verb, INTO_FILES[verb], names, "-o", str(out)))
    assert done.returncode == ExitCode.OUTPUT
    assert b"exists already" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""
    assert out.read_bytes() == b"mine"
    done = run(command(verb, INTO_FILES[verb], names, "-o", str(out), "--force"))
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 100
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("verb", INTO_FILES)
def test_an_interrupt_leaves_no_half_file(verb: str, names: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_bytes(b"mine")
    with subprocess.Popen(
        command(verb, INTO_FILES[verb], names, "-o", str(out), "--force"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job may ignore it
    ) as child:
        until = time.monotonic() + 120
        while len(list(tmp_path.iterdir())) < 2 and child.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(0.05)  # not between making the file and taking care of it
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        told = child.stderr.read()
        code = child.wait(120)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert (code, told, out.read_bytes()) == (ExitCode.INTERRUPTED, b"vmaforensics: interrupted\n", b"mine")


@pytest.mark.parametrize("verb", TO_STDOUT)
def test_a_closed_pipe_is_quiet(verb: str, names: dict[str, str]) -> None:
    inwards, outwards = os.pipe()
    os.close(inwards)
    try:
        done = subprocess.run(
            command(verb, TO_STDOUT[verb], names), stdout=outwards, stderr=subprocess.PIPE, timeout=240, check=False
        )
    finally:
        os.close(outwards)
    assert done.stderr == b""
    assert done.returncode == ExitCode.PIPE_CLOSED


@pytest.mark.parametrize("verb", INTO_FILES)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    verb: str, names: dict[str, str], tmp_path: Path
) -> None:
    done = run(command(verb, INTO_FILES[verb], names, "-o", str(tmp_path / "none" / "out.json")))
    assert done.returncode == ExitCode.OUTPUT
    assert b"cannot write" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_who_ends_the_command_leaves_no_half_file(
    number: signal.Signals, code: int, names: dict[str, str], tmp_path: Path
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("this signal is ignored, as under nohup, and by what is started here too")
    line = command("excerpt", ["IMAGE"], names, "-o", str(tmp_path / "out"))
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        until = time.monotonic() + 120
        while not list(tmp_path.iterdir()) and child.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        child.send_signal(number)
        assert child.wait(60) == code
        assert child.stderr is not None
        assert child.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", INTO_FILES)
def test_what_a_command_reads_is_never_replaced(verb: str, names: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "evidence"
    read = next(item for item in INTO_FILES[verb] if item in names)
    copy.write_bytes(Path(names[read]).read_bytes())
    before = copy.read_bytes()
    (tmp_path / "link").symlink_to(copy)
    for name in ("evidence", "link"):
        done = run(command(verb, INTO_FILES[verb], {**names, read: str(copy)}, "-o", str(tmp_path / name), "--force"))
        assert done.returncode == ExitCode.OUTPUT
        assert b"is what the command reads and is not overwritten" in done.stderr
    assert copy.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("verb", ["report", "maps", "info", "explain"])
def test_a_stdout_without_room_is_told_in_a_sentence(verb: str, names: dict[str, str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(verb, TO_STDOUT[verb], names), stdout=full, stderr=subprocess.PIPE, timeout=240, check=False
        )
    assert done.returncode == ExitCode.OUTPUT
    assert done.stderr == b"vmaforensics: cannot write to stdout: No space left on device\n"


def test_a_stdout_or_stderr_that_is_closed_is_no_error_of_ours(names: dict[str, str]) -> None:
    line = " ".join(map(shlex.quote, command("explain", [], names)))
    done = run(["sh", "-c", f"{line} >&-"])
    assert (done.returncode, done.stderr.count(b"\n")) == (ExitCode.OUTPUT, 1)
    assert done.stderr.startswith(b"vmaforensics: stdout is closed")
    assert run(["sh", "-c", f"{line} 2>&-"]).returncode == 0
    assert run(["sh", "-c", f"{line} NO-SUCH-RULE 2>&-"]).returncode == ExitCode.USAGE
