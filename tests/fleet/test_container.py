"""The container file, where podman is and a base image is at hand: VMAFORENSICS_BASE_IMAGE names one.

It has to be there, and has to have Python with venv or reach Debian's packages; pip needs its index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from support import ROOT

from vmaforensics.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

_BASE = os.environ.get("VMAFORENSICS_BASE_IMAGE", "")
pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(not shutil.which("podman") or not _BASE, reason="no podman, or no VMAFORENSICS_BASE_IMAGE"),
]


def _podman(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["podman", *words], capture_output=True, text=True, cwd=ROOT, check=False, timeout=1800)


def test_a_container_has_one_command_and_one_output(tmp_path: Path) -> None:
    tag = "localhost/vmaforensics-under-test"
    file = "docs/examples/Containerfile"
    built = _podman("build", "--network", "host", "--build-arg", f"BASE={_BASE}", "-t", tag, "-f", file, ".")
    assert built.returncode == 0, built.stderr
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "empty.raw").write_bytes(b"")
    (tmp_path / "out").mkdir()
    mounts = ["-v", f"{tmp_path}/evidence:/evidence:ro", "-v", f"{tmp_path}/out:/out"]
    run = ("run", "--rm", "--network", "none", *mounts, tag, "/evidence", "-o", "/out/fleet")
    first, again, refused = _podman(*run), _podman(*run, "--resume"), _podman(*run)
    assert "0 images analysed, 1 failed" in first.stdout, first.stderr
    assert "1 done before" in again.stdout, again.stderr
    assert (first.returncode, again.returncode, refused.returncode) == (ExitCode.OK, ExitCode.OK, ExitCode.OUTPUT)
    assert (tmp_path / "out" / "fleet" / "index.html").is_file()
