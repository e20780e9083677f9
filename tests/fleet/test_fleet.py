"""Whole runs over a fleet: the command, a worker that is killed half-way, a run that goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import ROOT

from vmaforensics.errors import ExitCode
from vmaforensics.fleet.dataset import open_dataset
from vmaforensics.fleet.queries import connect, rows
from vmaforensics.fleet.sources import find_sources
from vmaforensics.fleet.task import Options, analyse_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support import Sample

pytest.importorskip("distributed")
pytest.importorskip("duckdb")
pytestmark = pytest.mark.image

_CRASHED = ROOT / "samples" / "crash-6.1-vma-file" / "image.kdump"
_TAMPERED = ROOT / "samples" / "tampered-6.1" / "image.kdump"
_SOUND = ROOT / "samples" / "debian-6.1" / "image.kdump"


def _fleet(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vmaforensics", "fleet", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


def _images(folder: Path, names: Sequence[tuple[str, Path]]) -> Path:
    folder.mkdir()
    for name, source in names:
        shutil.copyfile(source, folder / name)
    return folder


def _workers(process: subprocess.Popen[bytes]) -> list[int]:
    """Processes of workers below the command, by /proc."""
    found, waiting = [], [process.pid]
    while waiting:
        pid = waiting.pop()
        try:
            threads = Path(f"/proc/{pid}/task").iterdir()
            children = " ".join((thread / "children").read_text(encoding="ascii") for thread in threads).split()
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
        waiting += [int(child) for child in children]
    return found


def test_a_fleet_whose_worker_is_killed_has_every_row_and_goes_on(tmp_path: Path) -> None:
    images = _images(
        tmp_path / "images",
        [("tampered.kdump", _TAMPERED), ("crashed.kdump", _CRASHED), *((f"sound-{n}.kdump", _SOUND) for n in range(3))],
    )
    (images / "broken.kdump").write_bytes(_SOUND.read_bytes()[:100_000])
    (images / "notes.txt").write_text("no image", encoding="utf-8")
    out = tmp_path / "out"
    process = _fleet(images, "-o", out, "--workers", "2", "--role", "web")
    deadline = time.monotonic() + 300
    while process.poll() is None and len(list(out.glob("tables/images/*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    os.kill(_workers(process)[-1], signal.SIGKILL)
    told, errors = process.communicate(timeout=300)
    assert process.returncode == ExitCode.OK, errors
    assert b"5 images analysed, 1 failed, 0 killed" in told
    assert b"1 file of the folders passed over" in told
    assert b"high" in told
    found = rows(connect(out), "SELECT location, status, exit_code, worst, crashed, role FROM images ORDER BY location")
    assert [(Path(row["location"]).name, row["status"], row["worst"], row["crashed"]) for row in found] == [
        ("broken.kdump", "failed", "", False),
        ("crashed.kdump", "ok", "high", True),
        ("sound-0.kdump", "ok", "low", False),
        ("sound-1.kdump", "ok", "low", False),
        ("sound-2.kdump", "ok", "low", False),
        ("tampered.kdump", "ok", "high", False),
    ]
    assert {row["role"] for row in found} == {"web"}
    assert found[0]["exit_code"] == ExitCode.FORMAT_UNSUPPORTED
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "2 machines to look at" in page
    assert all((out / link).is_file() for link in _links(page))

    before = {path: path.stat().st_mtime_ns for path in out.rglob("tables/*/[0-9a-f]*.parquet")}
    shutil.copyfile(_SOUND, images / "sound-3.kdump")
    refused, _ = (again := _fleet(images, "-o", out)).communicate(timeout=300)
    assert (again.returncode, refused) == (ExitCode.OUTPUT, b"")
    told, errors = (again := _fleet(images, "-o", out, "--resume")).communicate(timeout=300)
    assert again.returncode == ExitCode.OK, errors
    assert b"1 image analysed, 0 failed, 0 killed their workers, 6 done before" in told
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert rows(connect(out), "SELECT count(*) AS n FROM images")[0]["n"] == 7


def _links(page: str) -> list[str]:
    return [part.partition('"')[0] for part in page.split('href="')[1:] if part.startswith("reports/")]


def test_the_rows_are_those_of_the_guest(tmp_path: Path, maple_sample: Sample) -> None:
    open_dataset(tmp_path / "out", resume=False)
    (source,) = find_sources([str(maple_sample.image_path)]).sources
    told = analyse_source(source, Options(folder=str(tmp_path / "out"), reports=False))
    assert (told.outcome.status, told.outcome.exit_code) == ("ok", ExitCode.OK)
    connection = connect(tmp_path / "out")
    truth = maple_sample.truth
    lines = {pid: truth[f"proc/{pid}/maps"].count(b"\n") for pid in truth.pids() if pid != truth.capturing}
    vmas = rows(connection, "SELECT pid, count(*) AS n FROM vmas GROUP BY pid")
    counted = {row["pid"]: row["n"] for row in vmas}
    # Memory that processes share is told once, and /proc shows none of a process whose leader has ended.
    sharing = {row["pid"] for row in rows(connection, "SELECT pid FROM processes WHERE shares_with <> -1")}
    shown = {pid: count for pid, count in lines.items() if count and pid not in sharing}
    assert {pid: counted.get(pid) for pid in shown} == shown
    modules = {line.split()[0].decode() for line in truth["proc/modules"].splitlines()}
    assert {row["name"] for row in rows(connection, "SELECT name FROM modules")} == modules
