"""The table of formats: each renders, from the image or a saved report alike, the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
from support import ROOT

from vmaforensics.cli import main as cli
from vmaforensics.errors import ExitCode, UsageError
from vmaforensics.report.document.document import Document, encode
from vmaforensics.report.document.saved import parse
from vmaforensics.report.formats import render as formats
from vmaforensics.report.formats.render import FORMATS, Format, render

from .hostile import tampered_document, tampered_sample

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.report.document.parts import KernelFacts


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmaforensics", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the tampered sample, saved by the command."""
    path = tmp_path_factory.mktemp("saved") / "case.json"
    done = run("report", tampered_sample().image_path, "--format", "json", "-o", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_a_saved_report_gives_the_bytes_of_the_image(saved: Path, tmp_path: Path, name: str) -> None:
    outcomes = []
    for at, source in enumerate((tampered_sample().image_path, saved)):
        out = tmp_path / f"{at}{FORMATS[name].suffix}"
        done = run("report", source, "--format", name, "-o", out, PYTHONHASHSEED=str(at), TZ=("UTC", "Asia/Tokyo")[at])
        outcomes.append((done.returncode, done.stderr, out.read_bytes() if out.exists() else b""))
    assert outcomes[0] == outcomes[1]
    code, said, content = outcomes[0]
    # The one format that needs something an image may not tell.
    assert (code == 0 and content) or (name == "timesketch" and code == ExitCode.USAGE and b"clock" in said)


@pytest.mark.parametrize(
    "options",
    [
        ("--pid", 1, "--pid", 152),
        ("--rules", "VMA-MISSING"),
        ("--rules", "VMA-EXEC-ANON", "--min-severity", "high", "--pid", 172, "--reproducible"),
    ],
)
def test_a_saved_report_is_filtered_as_the_image_is(saved: Path, options: tuple[object, ...]) -> None:
    image = tampered_sample().image_path
    shown = [run("report", source, "--format", "json", *options) for source in (image, saved)]
    assert shown[0].returncode == shown[1].returncode == 0, shown[0].stderr
    from_image, from_saved = (msgspec.json.decode(line.stdout, type=Document) for line in shown)
    if "--pid" in options:  # the image has the memory map of any process, a report those with findings
        assert [memory_map for memory_map in from_image.maps if memory_map in from_saved.maps] == from_saved.maps
        from_image = msgspec.structs.replace(from_image, maps=from_saved.maps)
    assert encode(from_image) == encode(from_saved)


@pytest.mark.image
def test_reproducible_leaves_out_where_and_with_what_it_was_made(tmp_path: Path) -> None:
    image = tampered_sample().image_path
    other = tmp_path / "other name.bin"
    other.symlink_to(image)
    assert run("report", image, "--format", "json").stdout != run("report", other, "--format", "json").stdout
    shown = [run("report", one, "--format", "json", "--reproducible").stdout for one in (image, other)]
    assert shown[0] == shown[1]
    origin = msgspec.json.decode(shown[0], type=Document).provenance
    assert origin.file.path == origin.python == "(not recorded)"
    assert origin.dependencies == {}
    assert str(image).encode() not in shown[0]


@pytest.mark.parametrize("option", ["--sha256", "--views"])
def test_what_needs_the_image_is_refused_of_a_saved_report(saved: Path, option: str) -> None:
    done = run("report", saved, option, *(("slab",) if option == "--views" else ()))
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == b""
    assert f"{option} needs the image".encode() in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_saved_report_stands_alone(saved: Path) -> None:
    done = run("report", saved, tampered_sample().image_path)
    assert done.returncode == ExitCode.USAGE
    assert b"is a saved report; it is given alone" in done.stderr


def test_fail_on_and_strict_work_on_a_saved_report(saved: Path) -> None:
    assert run("report", saved, "--fail-on", "high").returncode == ExitCode.FINDINGS
    assert run("report", saved, "--fail-on", "critical").returncode == 0
    missing = tampered_document().not_assessed
    assert run("report", saved, "--strict").returncode == (ExitCode.INCOMPLETE if missing else 0)
    # Leaving findings out is not the same as being unable to look.
    assert run("report", saved, "--strict", "--min-severity", "high").returncode == (13 if missing else 0)


def test_a_binary_format_is_not_written_to_a_terminal(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["report", str(saved), "--format", "parquet"]) == ExitCode.USAGE


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_pipe_or_a_folder_is_never_replaced_by_a_file(saved: Path, tmp_path: Path, force: tuple[str, ...]) -> None:
    """As root, renaming a file over /dev/null would take the device from the whole machine."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "pipe", tmp_path / "folder"):
        done = run("report", saved, "-o", target, *force)
        assert done.returncode == ExitCode.OUTPUT
        assert b"is no regular file and is not replaced" in done.stderr
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "folder").is_dir()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_table_goes_with_formats_that_have_tables(saved: Path) -> None:
    done = run("report", saved, "--format", "json", "--table", "regions")
    assert done.returncode == ExitCode.USAGE
    assert b"--table goes with the formats csv, parquet" in done.stderr


def test_a_missing_optional_part_is_named_with_the_command_that_adds_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pyarrow"):
        render(tampered_document(), "parquet")
    # It is said before the image is opened.
    assert cli.main(["report", str(tmp_path / "none"), "--format", "parquet", "-o", str(tmp_path / "x")]) == 2
    assert "pip install 'vmaforensics[parquet]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_renderer_is_loaded_when_it_is_asked_for() -> None:
    code = (
        "import sys, vmaforensics.report.formats.render; "
        "print([one for one in sys.modules if one.startswith(('jinja2', 'rich', 'pyarrow', 'numpy', 'csv'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"[]\n"


def test_every_format_is_in_the_help_and_in_the_documentation() -> None:
    told = run("report", "--help").stdout.decode()
    page = (ROOT / "docs/reports.md").read_text()
    for name, form in FORMATS.items():
        assert form.name == name
        assert f"{name}: {form.description}" in " ".join(told.split())
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_a_report_without_findings_renders_too(form: Format) -> None:
    document = msgspec.structs.replace(tampered_document(), findings=[], processes=[], maps=[], not_assessed=[])
    kernel: KernelFacts = msgspec.structs.replace(document.kernel, clock="2026-01-02T03:04:05Z")
    shown = render(msgspec.structs.replace(document, kernel=kernel), form.name)
    assert shown


def test_json_of_a_document_reads_back_as_that_document() -> None:
    document = tampered_document()
    assert parse(encode(document)) == document
