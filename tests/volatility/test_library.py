"""volatility3 as a library: the documented example, run as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("volatility3")

from vmaforensics.volatility.layers.image_layer import ImageLayer
from vmaforensics.volatility.rows.session import logged, tree

from .conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SAMPLE = ROOT / "samples/tampered-6.1/image.kdump"


@pytest.mark.image
@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample is not there")
def test_the_example_prints_findings_and_processes(tmp_path: Path) -> None:
    example = ROOT / "docs/examples/volatility_library.py"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(example), str(SAMPLE)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("VMA-MISSING in bash: ")
    assert lines[1].startswith("  map_count is ")
    assert any(line.split()[1:] == ["sleep"] for line in lines)


def test_whatever_happens_in_a_generator_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> Iterator[tuple[int, tuple[int]]]:
        yield 0, (1,)
        raise MemoryError("\x1b[31m")

    assert list(tree(failing())) == [(0, (1,))]
    assert "\x1b" not in caplog.text
    with logged():
        raise RecursionError


NAMES = ("crash", "extract", "findings", "maps", "pages", "stacks", "xview")


def test_the_plugin_directory_has_no_package_in_it() -> None:
    from vmaforensics.volatility import PLUGIN_DIRECTORY

    files = sorted(path.name for path in (PLUGIN_DIRECTORY / "linux").glob("*.py"))
    assert files == sorted(f"vma{name}.py" for name in NAMES)
    assert all(len((PLUGIN_DIRECTORY / "linux" / name).read_text().splitlines()) <= 150 for name in files)
    assert ImageLayer.__module__ == "vmaforensics.volatility.layers.image_layer"  # saved configurations name it
