"""The command in a process of its own: what it prints where, how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import jsonschema
import msgspec
import pytest
from support import Edit, Sample, leader

from vmaforensics.cli import main as cli
from vmaforensics.errors import ExitCode
from vmaforensics.image.memory import PhysicalMemory
from vmaforensics.report.document.document import Document, json_schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmaforensics.image.limits import Limits

HOSTILE = b"\x1b]0;x\x07\n\xe2\x80\xae1"


def run(*arguments: object, **how: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmaforensics", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **how)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module")
def image(maple_sample: Sample) -> Path:
    return maple_sample.image_path


@pytest.fixture(scope="module")
def pid(maple_sample: Sample) -> int:
    """A process with a memory map."""
    truth = maple_sample.truth
    return next(pid for pid in truth.pids() if pid not in (1, truth.capturing) and truth[f"proc/{pid}/maps"])


@pytest.fixture(scope="module")
def report(image: Path) -> subprocess.CompletedProcess[bytes]:
    return run("report", image, "--format", "json")


def test_maps_prints_the_bytes_of_proc(maple_sample: Sample, image: Path, pid: int) -> None:
    done = run("maps", image, "--pid", pid)
    assert done.returncode == 0
    assert done.stdout == maple_sample.truth[f"proc/{pid}/maps"]
    assert done.stderr == b""


def test_maps_of_several_have_a_heading_each(maple_sample: Sample, image: Path, pid: int) -> None:
    truth = maple_sample.truth
    done = run("maps", image, "--pid", pid, "--pid", 1)
    parts = done.stdout.split(b"==> ")[1:]
    assert [part.split(b" <==\n")[1] for part in parts] == [truth[f"proc/{one}/maps"] for one in (1, pid)]
    assert parts[0].startswith(b"1 (init)")


def test_info_names_the_kernel_and_what_is_missing(maple_sample: Sample, image: Path) -> None:
    done = run("info", image)
    assert done.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines())
    assert lines["release"] in maple_sample.truth["run/log/uname"].decode()
    assert lines["missing"] == "nothing"
    assert done.stderr == b""


def test_the_json_report_is_a_document_and_fits_its_schema(report: subprocess.CompletedProcess[bytes]) -> None:
    assert report.returncode == 0
    assert report.stderr == b""
    document = msgspec.json.decode(report.stdout, type=Document)
    assert document.processes
    raw = msgspec.json.decode(report.stdout)
    jsonschema.Draft202012Validator(json_schema()).validate(raw)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate({**raw, "findings": [{"severity": "awful"}]})


def test_the_document_lists_the_processes_of_the_guest(
    maple_sample: Sample, report: subprocess.CompletedProcess[bytes]
) -> None:
    document = msgspec.json.decode(report.stdout, type=Document)
    assert [process.pid for process in document.processes] == maple_sample.truth.pids()
    assert document.kernel.release == maple_sample.analysis.kernel.identity.release


def test_two_runs_give_equal_bytes(image: Path, report: subprocess.CompletedProcess[bytes]) -> None:
    other = {**os.environ, "PYTHONHASHSEED": "77", "COLUMNS": "40", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    assert run("report", image, "--format", "json", env=other).stdout == report.stdout


def test_the_text_report_begins_with_the_verdict(image: Path) -> None:
    done = run("report", image)
    assert done.returncode == 0
    assert done.stdout.startswith(b"VERDICT   ")
    assert b"\nNot assessed\n" in done.stdout
    assert b"\nProvenance\n" in done.stdout


def test_a_report_of_one_process_holds_no_other(image: Path, pid: int) -> None:
    done = run("report", image, "--format", "json", "--pid", pid)
    document = msgspec.json.decode(done.stdout, type=Document)
    assert [process.pid for process in document.processes] == [pid]
    assert {finding.pid for finding in document.findings} <= {pid}


@pytest.mark.parametrize("verb", ["maps", "report"])
def test_a_pid_that_no_process_has_is_wrong_usage(image: Path, verb: str) -> None:
    done = run(verb, image, "--pid", 999_999)
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == b""
    assert done.stderr.startswith(b"vmaforensics: no process of the image has pid 999999")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments", [(), ("frobnicate",), ("report",), ("report", "x", "--format", "xml"), ("maps", "x", "--pid", "one")]
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == ExitCode.USAGE
    assert b"usage: vmaforensics" in done.stderr
    assert b"Traceback" not in done.stderr


def test_help_lists_every_exit_code() -> None:
    done = run("--help")
    assert done.returncode == 0
    for code in ExitCode:
        assert f"  {code.value} ".encode() in done.stdout.replace(b"interrupted        ", b"\n  ")


def test_findings_end_with_1_only_where_that_was_asked_for(tampered: Sample) -> None:
    assert run("report", tampered.image_path).returncode == 0
    done = run("report", tampered.image_path, "--fail-on", "high", "--format", "json")
    assert done.returncode == ExitCode.FINDINGS
    assert msgspec.json.decode(done.stdout, type=Document).findings


def test_a_clean_image_does_not_fail_on_high(image: Path) -> None:
    assert run("report", image, "--fail-on", "high").returncode == 0


def opens(monkeypatch: pytest.MonkeyPatch, opening: Callable[..., object]) -> None:
    """Have ``opening`` called in place of ``open_image``, of whatever path."""
    monkeypatch.setattr("vmaforensics.image.open.look_at", lambda path: None)
    monkeypatch.setattr("vmaforensics.image.open.open_image", opening)


def test_strict_ends_with_13_if_anything_is_missing(
    maple_sample: Sample, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edit = Edit(maple_sample.analysis)
    edit.drop(int(edit.clean.views.mms.mm[3]))
    hurt = replace(edit.clean.image, memory=edit.overlay)
    opens(monkeypatch, lambda path, *_: hurt)
    out = tmp_path / "out"
    assert cli.main(["report", "x", "-o", str(out)]) == 0
    assert cli.main(["report", "x", "--strict", "-o", str(out), "--force"]) == ExitCode.INCOMPLETE
    assert "Not assessed" in out.read_text()


def test_an_output_file_is_not_overwritten_unless_forced(
    maple_sample: Sample, image: Path, tmp_path: Path, pid: int
) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"mine")
    done = run("maps", image, "--pid", pid, "-o", out)
    assert done.returncode == ExitCode.OUTPUT
    assert b"exists already" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert out.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    done = run("maps", image, "--pid", pid, "-o", out, "--force")
    assert done.returncode == 0
    assert done.stdout == b""
    assert out.read_bytes() == maple_sample.truth[f"proc/{pid}/maps"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("arguments", [("--pid", "999999"), ()], ids=["unknown pid", "no image"])
def test_a_failure_leaves_no_partial_file(image: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    source = image if arguments else tmp_path.parent / "none"
    done = run("report", source, *arguments, "-o", tmp_path / "out")
    assert done.returncode in (2, 10)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_one_sentence(image: Path, tmp_path: Path) -> None:
    done = run("report", image, "-o", tmp_path / "none" / "out")
    assert done.returncode == ExitCode.OUTPUT
    assert b"cannot write" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_goes_away_is_no_error(image: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "vmaforensics", "maps", str(image)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith(b"==> ")
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(60) == ExitCode.PIPE_CLOSED


def test_an_interrupt_is_one_line_and_leaves_nothing_behind(image: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "vmaforensics", "report", str(image), "-o", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job may ignore it
    ) as child:
        until = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        assert child.stderr.read() == b"vmaforensics: interrupted\n"
        assert child.wait(60) == ExitCode.INTERRUPTED
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_a_class_is_made_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    def making(*_: object) -> None:
        type("Made", (), {"member": Interrupted()})

    opens(monkeypatch, making)
    assert cli.main(["report", "x"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "vmaforensics: interrupted\n"


def test_an_interrupt_that_a_compiled_module_swallows_is_an_interrupt(image: Path, tmp_path: Path) -> None:
    # PyCapsule_Import of CPython drops the KeyboardInterrupt of the import under it: here datetime raises it.
    (tmp_path / "datetime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "vmaforensics", "report", str(image)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == ExitCode.INTERRUPTED
    assert done.stderr == b"vmaforensics: interrupted\n"


def test_a_bug_is_one_line_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("\x1b[31moops\nhere")

    opens(monkeypatch, broken)
    assert cli.main(["report", "x"]) == ExitCode.INTERNAL
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert "\x1b" not in captured
    assert "RuntimeError" in captured
    with pytest.raises(RuntimeError):
        cli.main(["--debug", "report", "x"])


def test_names_from_the_image_do_not_act_on_the_terminal(
    maple_sample: Sample, pid: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edit = Edit(maple_sample.analysis)
    views = edit.clean.views
    task = int(leader(edit.clean, pid).task)
    edit.write(edit.at("task_struct", task, "comm"), HOSTILE.ljust(16, b"\0"))
    # A file's name, where the dentry holds it itself.
    assert views.files is not None
    mm = int(leader(edit.clean, pid).mm)
    mine = views.vmas.take((views.vmas.mm == mm) & (views.vmas.file_row >= 0))
    dentry = int(views.files.rows.dentry[int(mine.file_row[0])])
    kernel = edit.clean.kernel
    name_at = kernel.member("dentry", "d_name.name|__d_name.name").offset
    size = len(views.files.paths[int(mine.file_row[0])].rpartition(b"/")[2])  # type: ignore[union-attr]
    edit.write(edit.get(dentry + name_at), b"\x1b[2J\x07\xff\xff\xff"[:size])
    # Something to find, so that names stand in findings too.
    counter = edit.at("mm_struct", mm, "map_count")
    edit.put(counter, 1, 4)
    hurt = replace(edit.clean.image, memory=edit.overlay)
    opens(monkeypatch, lambda path, *_: hurt)
    for form, options in (("text", ([], ["--pid", str(pid)])), ("json", ([],))):
        for more in options:
            out = tmp_path / f"{form}{len(more)}"
            assert cli.main(["report", "x", "--format", form, "-o", str(out), *more]) == 0
            raw = out.read_bytes()
            assert b"\x1b" not in raw
            assert b"\x07" not in raw
            assert "\u202e".encode() not in raw
            assert b"\\x1b]0;x" in raw if form == "text" else b"\\\\x1b]0;x" in raw
            if more:
                assert b"\\x1b[2J"[: size + 3] in raw
    line = next(line for line in (tmp_path / "text0").read_text().splitlines() if "\\x1b]0;x" in line)
    assert "\\x0a" in line


def test_the_debug_option_logs_to_stderr_and_leaves_stdout_alone(maple_sample: Sample, image: Path, pid: int) -> None:
    done = run("--debug", "maps", image, "--pid", pid)
    assert done.returncode == 0
    assert done.stdout == maple_sample.truth[f"proc/{pid}/maps"]


def test_the_file_itself_is_never_changed(image: Path, tmp_path: Path) -> None:
    copy = tmp_path / "image"
    copy.write_bytes(image.read_bytes()) if image.stat().st_size < 1 << 26 else copy.symlink_to(image)
    before = (copy.stat().st_mtime_ns, copy.stat().st_size)
    copy.chmod(0o444) if not copy.is_symlink() else None
    assert run("report", copy, "--sha256").returncode == 0
    assert (copy.stat().st_mtime_ns, copy.stat().st_size) == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has other units")
def test_memory_that_was_not_kept_within_is_told_with_its_amount(image: Path) -> None:
    """In one line, and what the system itself says of the process that has ended is the amount."""
    for limit in ("50M", "64G"):
        command = [sys.executable, "-m", "vmaforensics", "report", str(image), "--memory", limit]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            told = process.stderr.read().decode()
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = 0
        if limit == "64G":
            assert told == ""
            continue
        found = re.fullmatch(r"vmaforensics: it took ([\d.]+) ([MG])iB, more than the 50 MiB of --memory\n", told)
        assert found is not None, told
        # The system counts what the test's own process has at the moment of its fork, which may be gigabytes.
        unit = 1024 if found[2] == "M" else 1 << 20
        assert float(found[1]) == pytest.approx(usage.ru_maxrss / unit, rel=0.03)


@pytest.mark.parametrize("verb", ["report", "diff", "info", "crash"])
def test_jobs_and_memory_reach_the_image_of_every_verb_that_has_them(
    verb: str, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Limits] = []
    limit = PhysicalMemory.limit

    def watched(self: PhysicalMemory, limits: Limits) -> None:
        told.append(limits)
        limit(self, limits)

    monkeypatch.setattr(PhysicalMemory, "limit", watched)
    images = [str(image)] * (2 if verb == "diff" else 1)
    assert cli.main([verb, *images, "--jobs", "3", "--memory", "2GiB"]) == 0
    assert {(limits.jobs, limits.memory) for limits in told} == {(3, 2 << 30)}
    capsys.readouterr()
