"""``vmaforensics plugin-dir``: the directory, and volatility3's settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmaforensics.cli import plugin_dir as verb
from vmaforensics.cli.main import main
from vmaforensics.errors import ExitCode

OURS = str(verb.plugin_dir())


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """volatility3's settings of a user whose home is new."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".config" / "volatility3" / "vol.json"


def test_it_prints_the_directory_of_the_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin-dir"]) == ExitCode.OK
    directory = Path(capsys.readouterr().out.rstrip("\n"))
    assert (directory / "linux" / "vmaxview.py").is_file()
    # An __init__.py would hide all of volatility3's own Linux plugins.
    assert not list(directory.rglob("__init__.py"))


def test_it_does_not_need_volatility3() -> None:
    code = "import sys; sys.modules['volatility3'] = None; from vmaforensics.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "plugin-dir"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{OURS}\n", done.stderr


def test_uninstalling_leaves_nothing_behind(settings: Path) -> None:
    assert main(["plugin-dir", "--install"]) == ExitCode.OK
    assert json.loads(settings.read_text()) == {"plugin_dirs": OURS}
    assert main(["plugin-dir", "--uninstall"]) == ExitCode.OK
    assert not settings.parent.exists()


def test_other_settings_stay_as_they_are(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings.parent.mkdir(parents=True)
    before = {"offline": True, "plugin_dirs": "/opt/theirs;/srv/more", "quiet": False}
    settings.write_text(json.dumps(before))
    assert main(["plugin-dir", "--install"]) == ExitCode.OK
    assert json.loads(settings.read_text()) == before | {"plugin_dirs": f"/opt/theirs;/srv/more;{OURS}"}
    assert "now names" in capsys.readouterr().out
    assert main(["plugin-dir", "--install"]) == ExitCode.OK
    assert "already named" in capsys.readouterr().out
    assert main(["plugin-dir", "--uninstall"]) == ExitCode.OK
    assert json.loads(settings.read_text()) == before
    assert main(["plugin-dir", "--uninstall"]) == ExitCode.OK
    assert "did not name" in capsys.readouterr().out


def test_an_installation_elsewhere_is_replaced(settings: Path) -> None:
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"plugin_dirs": "/old/venv/vmaforensics/volatility/plugins;/opt/theirs"}))
    assert verb.install(settings, verb.plugin_dir())
    assert json.loads(settings.read_text()) == {"plugin_dirs": f"/opt/theirs;{OURS}"}


@pytest.mark.parametrize("content", ["{", "[]", '{"plugin_dirs": 7}', "\x00\xff"])
def test_settings_that_are_none_are_not_touched(
    settings: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.parent.mkdir(parents=True)
    settings.write_bytes(content.encode("latin-1"))
    for option in ("--install", "--uninstall"):
        assert main(["plugin-dir", option]) == ExitCode.OUTPUT
        assert "repair it or remove it" in capsys.readouterr().err
    assert settings.read_bytes() == content.encode("latin-1")


def test_plain_vol_finds_the_plugins_once_installed(settings: Path) -> None:
    pytest.importorskip("volatility3")
    code = "import sys; sys.argv[0] = 'vol'; from volatility3.cli import main; main()"
    command = [sys.executable, "-c", code, "--offline", "--cache-path", str(settings.parents[2]), "-h"]

    def listed() -> bool:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ.copy())
        assert "linux.pslist.PsList" in done.stdout
        return "linux.vmaxview.VmaXView" in done.stdout

    assert not listed()
    assert main(["plugin-dir", "--install"]) == ExitCode.OK
    assert listed()
    assert main(["plugin-dir", "--uninstall"]) == ExitCode.OK
    assert not listed()
