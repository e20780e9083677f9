"""Whole runs over a fleet: the command, a worker that is killed half-way, a run that goes on."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support import ROOT

from fleet.folder import make_folder
from fleet.trial import look, run_disturbed
from vmaforensics.errors import ExitCode
from vmaforensics.fleet.dataset import open_dataset
from vmaforensics.fleet.queries import connect, rows
from vmaforensics.fleet.sources import find_sources
from vmaforensics.fleet.task import Options, analyse_source

if TYPE_CHECKING:
    from pathlib import Path

    from support import Sample

pytestmark = pytest.mark.image

_SOUND = ROOT / "samples" / "debian-6.1" / "image.kdump"


def test_a_fleet_that_is_disturbed_twice_has_every_row_once(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    machines = make_folder(images, 12)
    said = [*run_disturbed(images, out, len(machines)), *look(images, out)]
    assert len(said) == 9, said
    page = (out / "index.html").read_text(encoding="utf-8")
    serious = sum(machine.kind in ("tampered", "crashed", "live") for machine in machines)
    assert f"{serious} machines to look at" in page
    links = [part.partition('"')[0] for part in page.split('href="')[1:] if part.startswith("reports/")]
    assert len(links) == sum(machine.kind != "broken" for machine in machines)
    assert all((out / link).is_file() for link in links)


def test_what_is_added_to_a_folder_is_added_to_its_dataset(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "images" / "out"
    images.mkdir()
    (images / "broken.kdump").write_bytes(_SOUND.read_bytes()[:100_000])
    (images / "notes.txt").write_text("no image", encoding="utf-8")
    code, told, _ = _fleet(images, "-o", out)
    assert (code, told.splitlines()[1]) == (
        ExitCode.OK,
        "1 file of the folders passed over: no header of an image, no name of one",
    )
    assert "0 images analysed, 1 failed, 0 killed" in told
    (images / "empty.raw").write_bytes(b"")
    code, told, errors = _fleet(images, "-o", out)
    assert (code, told) == (ExitCode.OUTPUT, "")
    assert "give --resume" in errors
    code, told, _ = _fleet(images, "-o", out, "--resume")
    assert "0 images analysed, 1 failed, 0 killed their workers, 1 done before" in told
    assert "1 file of the folders passed over" in told
    found = rows(connect(out), "SELECT exit_code FROM images ORDER BY location")
    assert [row["exit_code"] for row in found] == [ExitCode.FORMAT_UNSUPPORTED, ExitCode.IMAGE_UNREADABLE]


def _fleet(*arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "vmaforensics", "fleet", "--workers", "1", *(str(word) for word in arguments)]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=600, check=False, text=True)
    return done.returncode, done.stdout, done.stderr


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
