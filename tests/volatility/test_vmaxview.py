"""``vol linux.vmaxview.VmaXView``, run as users run it, against the engine and the guests' own maps."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.report.maps import own_regions, permissions
from vmaforensics.views.gather import gather_views
from vmaforensics.views.tables import View

from .conftest import IMAGES, Region, Vol, named, parse, truth

if TYPE_CHECKING:
    from pathlib import Path

PLUGIN = "linux.vmaxview.VmaXView"
VIEWS = {"In list": View.LIST, "In rbtree": View.RBTREE, "In maple": View.MAPLE}


def by_pid(rows: list[dict[str, Any]]) -> dict[int, list[Region]]:
    found: dict[int, list[Region]] = {}
    for row in rows:
        found.setdefault(row["PID"], []).append((row["Start"], row["End"], row["Flags"]))
    return found


@pytest.mark.skipif(not IMAGES, reason="no image: neither samples/*/image.kdump nor build/images/debian-*")
@pytest.mark.parametrize("image", IMAGES, ids=named)
def test_rows_are_the_engines_and_the_guests(image: Path, vol: Vol) -> None:
    done = vol(image, PLUGIN)
    assert "ERROR" not in done.stderr
    rows = parse("json", done.stdout)
    found = by_pid(rows)

    views = gather_views(find_kernel(open_image(image)))
    expected: dict[int, list[Region]] = {}
    for pid, mm in dict.fromkeys(views.tasks[["tgid", "mm"]].tolist()):
        if mm:
            own, _ = own_regions(views, mm)
            columns = (own[name].tolist() for name in ("start", "end", "flags"))
            regions = [(start, end, permissions(flags)) for start, end, flags in zip(*columns, strict=True)]
            expected[pid] = sorted(regions)
    assert found == expected

    for column, view in VIEWS.items():
        assert {row[column] for row in rows} == {True if view in views.regions() else None}, column
    assert all(row["VMA agrees"] for row in rows)
    known = truth(image)
    if known is not None:
        assert {pid: found.get(pid) for pid in known} == {pid: sorted(own) for pid, own in known.items()}


@pytest.mark.parametrize("renderer", ["quick", "csv", "pretty", "jsonl"])
def test_all_renderers_give_the_same_rows(one_image: Path, vol: Vol, renderer: str) -> None:
    expected = parse("json", vol(one_image, PLUGIN, "--pid", "1").stdout)
    assert {row["PID"] for row in expected} == {1}
    rows = parse(renderer, vol(one_image, PLUGIN, "--pid", "1", renderer=renderer).stdout)
    if renderer == "jsonl":
        assert rows == expected
    else:
        assert rows == [{name: shown(name, value) for name, value in row.items()} for row in expected]


def shown(column: str, value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "N/A"
    return f"{value:#x}" if column in ("Start", "End", "PgOff", "VMA") else str(value)


def test_an_unknown_pid_is_a_warning_and_the_others_are_listed(one_image: Path, vol: Vol) -> None:
    done = vol(one_image, PLUGIN, "--pid", "1", "4194304")
    assert {row["PID"] for row in parse("json", done.stdout)} == {1}
    assert "pid 4194304" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"plain text\n" * 100, "text file"),
        (b"makedumpfile\0\0\0\0" + bytes(1 << 21), "makedumpfile -R"),
        (bytes(1 << 21), "no Linux kernel"),
        (b"KDUMP   " + bytes(8192), "ERROR"),
    ],
    ids=["empty", "text", "flattened", "zeros", "broken kdump"],
)
def test_what_cannot_be_read_is_one_clear_line_and_no_rows(
    tmp_path: Path, vol: Vol, content: bytes, words: str
) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    done = vol(image, PLUGIN)
    assert json.loads(done.stdout) == []
    lines = [line for line in done.stderr.split("\n") if line and not line.startswith("Volatility 3")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "bug" not in lines[0]


def test_a_compressed_image_is_read_through_volatility3(tmp_path: Path, vol: Vol) -> None:
    # Too small to hold a kernel: what counts is that it was unpacked, and that the log says so.
    image = tmp_path / "image.raw.gz"
    image.write_bytes(gzip.compress(bytes(1 << 21)))
    done = vol(image, PLUGIN)
    assert json.loads(done.stdout) == []
    assert "unpacked" in done.stderr
    assert "no Linux kernel" in done.stderr


def test_the_other_linux_plugins_are_still_there(vol: Vol, tmp_path: Path) -> None:
    # A package in plugins/linux would hide volatility3's own.
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    text = vol(image, "-h").stdout
    assert PLUGIN in text
    assert "linux.pslist.PsList" in text
