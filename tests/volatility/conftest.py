"""Images, the guest's truth beside them, and ``vol``."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import RESTING

pytest.importorskip("volatility3")

ROOT = Path(__file__).parents[2]
# With jsonschema, which the tests need for another purpose, volatility3 checks a symbol file for most of a minute.
_VOL = "import sys; sys.argv[0] = 'vol'; sys.modules['jsonschema'] = None; from volatility3.cli import main; main()"

Region = tuple[int, int, str]
Vol = Callable[..., subprocess.CompletedProcess[str]]


def images() -> list[Path]:
    """The bundled samples; without them, what the recipe has made here."""
    built = ROOT / "build" / "images"
    # A glob over names, so that images of other sizes (benchmarks) stay out.
    return [sample.image_path for sample in RESTING] or sorted(built.glob("debian-*.elf"))


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


IMAGES = images()


@pytest.fixture(scope="session")
def one_image() -> Path:
    """Any one image, the smallest file of those there are."""
    if not IMAGES:
        pytest.skip("no image: neither samples/*/image.kdump nor build/images/debian-*.elf or .raw")
    return min(IMAGES, key=lambda path: path.stat().st_size)


@pytest.fixture(scope="session")
def vol(tmp_path_factory: pytest.TempPathFactory) -> Vol:
    """Runs ``vol`` on an image: ``vol(image, "linux.vmaxview.VmaXView", "--pid", "1", renderer="csv")``.

    ``before`` are options of vol itself; ``plugins`` is what -p gets, None for no -p; ``code`` is the exit code
    expected. All runs share caches, but not the user's.
    """
    cache = tmp_path_factory.mktemp("cache")
    environment = os.environ | {"XDG_CACHE_HOME": str(cache / "ours"), "HOME": str(cache)}

    def run(
        image: Path | None,
        *plugin: str,
        renderer: str = "json",
        before: Sequence[str] = (),
        plugins: Path | None = ROOT / "plugins",
        code: int = 0,
        home: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [
            *(sys.executable, "-c", _VOL, "--offline", "--cache-path", str(cache), "-q"),
            *(("-p", str(plugins)) if plugins else ()),
            *("-r", renderer, *before, *(("-f", str(image)) if image else ()), *plugin),
        ]
        known = environment | ({"HOME": str(home)} if home else {})
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300, env=known)
        assert done.returncode == code, done.stderr
        return done

    return run


def parse(renderer: str, text: str) -> list[dict[str, Any]]:
    """The rows a renderer of volatility3 printed: by column name, as printed (JSON: as decoded)."""
    if renderer == "json":
        return [_without_children(row) for row in json.loads(text)]
    if renderer == "jsonl":
        return [_without_children(json.loads(line)) for line in text.split("\n") if line.strip()]
    if renderer == "csv":
        rows = list(csv.DictReader(io.StringIO(text), escapechar="\\"))
        return [{key: value for key, value in row.items() if key != "TreeDepth"} for row in rows]
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("Volatility 3 Fram")]
    if renderer == "quick":
        cells = [line.split("\t") for line in lines]
    else:
        cells = [[cell.strip() for cell in line.split(" | ")[1:]] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def _without_children(row: dict[str, Any]) -> dict[str, Any]:
    assert row.pop("__children") == []
    return row


@cache
def truth(image: Path) -> dict[int, list[Region]] | None:
    """What /proc/PID/maps said, by pid, without the gate area; None if there is no record beside the image."""
    beside = [image.parent / "truth.tar.xz", image.with_suffix("").with_suffix(".truth.tar")]
    archive = next((path for path in beside if path.exists()), None)
    if archive is None:
        return None
    leaders: dict[int, list[Region]] = {}
    threads: dict[int, list[Region]] = {}
    capturing = -1
    with tarfile.open(archive) as tar:
        for entry in tar:
            whose = re.fullmatch(r"proc/(\d+)/(task/\d+/)?maps", entry.name.removeprefix("./"))
            stream = tar.extractfile(entry) if whose or entry.name.endswith("capturing") else None
            if stream is None:
                continue
            if whose is None:
                capturing = int(stream.read())
            else:
                (threads if whose[2] else leaders)[int(whose[1])] = _regions(stream.read())
    # Of a process whose first thread has ended, only the others' maps say anything.
    found = {pid: rows or threads.get(pid, []) for pid, rows in leaders.items()}
    found.pop(capturing, None)
    return {pid: rows for pid, rows in found.items() if rows}


def _regions(maps: bytes) -> list[Region]:
    rows = []
    for line in maps.split(b"\n"):
        if line and not line.endswith(b"[vsyscall]"):
            bounds, permissions = line.decode("latin-1").split(" ")[:2]
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            rows.append((start, end, permissions))
    return rows
