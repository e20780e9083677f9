"""``doctor``: what it says of an installation and of an image, and how it ends."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support import Edit, Sample

from vmaforensics.cli import doctor
from vmaforensics.cli.doctor import Requirement, install_command
from vmaforensics.cli.main import main
from vmaforensics.errors import ExitCode
from vmaforensics.image import open as opening

if TYPE_CHECKING:
    from pathlib import Path

STATED = [
    "numpy>=2.0",
    "rich>=13",
    "volatility3>=2.26; extra == 'volatility'",
    "pandas>=2.2; extra == 'pandas'",
    "vmaforensics[test]; extra == 'dev'",
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An installation that holds what is put in here, and states what STATED says."""
    versions = {"numpy": "2.4.6", "rich": "15.0.0", "volatility3": "2.28.2", "pandas": "3.0.1", "pyarrow": "26.0.1"}
    versions |= {"yara-x": "1.23.0", "duckdb": "2.0.1", "distributed": "2026.8.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: STATED)
    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        state, _, text = line.partition(" ")
        found.setdefault(state, []).append(text.strip())
    return found


def test_a_whole_installation_is_fine(installed: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = lines(capsys)
    assert not {"MISSING", "absent"} & set(told)
    assert "numpy 2.4.6" in told["ok"]
    assert any("Python" in text and sys.executable in text for text in told["ok"])


def test_what_is_optional_is_told_with_what_it_adds_and_how_to_get_it(
    installed: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    del installed["volatility3"], installed["pyarrow"]
    assert main(["doctor"]) == 0
    told = lines(capsys)["absent"]
    (vol,) = (text for text in told if text.startswith("volatility3"))
    assert install_command(Requirement("volatility3", "2.26")) in vol
    assert "plugins" in vol
    assert any("parquet" in text for text in told)


@pytest.mark.parametrize("version", [None, "12.6.3"])
def test_what_is_required_and_missing_or_old_decides_how_it_ends(
    installed: dict[str, str], capsys: pytest.CaptureFixture[str], version: str | None
) -> None:
    installed.pop("rich")
    if version is not None:
        installed["rich"] = version
    assert main(["doctor"]) == ExitCode.INCOMPLETE
    captured = capsys.readouterr()
    assert "MISSING   rich" in captured.out
    assert "pip install 'rich>=13'" in captured.out
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("have", "least", "enough"),
    [
        ("2.0", "2.0", True),
        ("2.10.0", "2.9", True),
        ("2.9", "2.10", False),
        ("13.0.0rc1", "13", True),
        ("1.9.9", "2", False),
        ("2.0.post1+local.3", "2.0", True),
    ],
)
def test_versions_are_compared_as_numbers(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, have: str, least: str, enough: bool
) -> None:
    installed["rich"] = have
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [f"rich>={least}"])
    assert main(["doctor"]) == (ExitCode.OK if enough else ExitCode.INCOMPLETE)


@pytest.mark.parametrize(
    ("prefix", "begins"),
    [
        ("/home/x/.local/share/pipx/venvs/vmaforensics", "pipx inject vmaforensics "),
        ("/home/x/.local/share/uv/tools/vmaforensics", "uv tool install vmaforensics --with "),
        ("/home/x/venv", sys.executable),
    ],
)
def test_the_command_fits_how_this_was_installed(monkeypatch: pytest.MonkeyPatch, prefix: str, begins: str) -> None:
    monkeypatch.setattr(sys, "prefix", prefix)
    command = install_command(Requirement("pandas", "2.2"))
    assert command.startswith(begins)
    assert command.endswith("'pandas>=2.2'")


def test_the_cache_is_told_of(
    installed: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    main(["doctor"])
    assert "not there yet" in capsys.readouterr().out
    folder = tmp_path / "vmaforensics/isf"
    folder.mkdir(parents=True)
    (folder / "one.json.xz").write_bytes(bytes(1_500_000))
    main(["doctor"])
    assert f"{folder}: 1 file, 1.5 MB" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "_writable", lambda _: False)
    main(["doctor"])
    assert "cannot be written" in capsys.readouterr().out


def test_an_image_that_reports_whole_is_said_to(
    installed: dict[str, str], list_sample: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(list_sample.image_path)]) == 0
    text = capsys.readouterr().out
    assert f"kernel {list_sample.analysis.kernel.identity.release}" in text
    assert "pages of RAM are in it" in text
    lacking = len([line for line in text.splitlines() if line.startswith("note")])
    assert ("a report would be complete" in text) != ("a report would be incomplete" in text)
    assert lacking or "a report would be complete" in text


def test_what_a_report_would_lack_is_named(
    installed: dict[str, str], maple_sample: Sample, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = Edit(maple_sample.analysis)
    edit.drop(int(edit.clean.views.mms.mm[3]))
    import dataclasses

    details = {**edit.clean.image.details, "dump level": "24"}
    hurt = dataclasses.replace(edit.clean.image, memory=edit.overlay, cpus=(), details=details)
    monkeypatch.setattr(opening, "open_image", lambda *_: hurt)
    assert main(["doctor", "x"]) == 0
    text = capsys.readouterr().out
    assert "dump level 24 leaves out pages of programs" in text
    assert "page cache" not in text.split("kernel")[0]
    assert "no notes of the CPUs" in text
    assert "a report would be incomplete" in text


def test_an_image_that_cannot_be_reported_on_ends_as_the_report_would(
    installed: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no image\n" * 100)
    for path, code in ((text, ExitCode.FORMAT_UNSUPPORTED), (tmp_path / "none", ExitCode.IMAGE_UNREADABLE)):
        assert main(["doctor", str(path)]) == code == main(["report", str(path)])
        captured = capsys.readouterr()
        assert "FAILS" in captured.out
        told = captured.err.splitlines()
        assert told[0] == told[1]  # doctor's and report's


def test_a_hostile_name_is_inert(installed: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\nok        all is well"
    path.write_text("text")
    command = [sys.executable, "-m", "vmaforensics", "doctor", str(path)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=dict(os.environ))
    assert b"\x1b" not in done.stdout + done.stderr
    assert done.stderr.count(b"\n") == 1
