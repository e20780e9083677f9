"""``vol linux.vmaxview.VmaXView``, run as users run it, against the report and the guests' own maps."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from vmaforensics.analysis import analyse_image
from vmaforensics.compare.records import records_of_process
from vmaforensics.proc.maps import shown_vmas
from vmaforensics.report.document.regions import regions_by_mm
from vmaforensics.views.view import View
from vmaforensics.volatility.rows.regions import VIEW_COLUMNS
from vmaforensics.words.permissions import vma_permissions

from .conftest import IMAGES, ROOT, Region, Vol, named, parse, truth

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.views.views import Views

PLUGIN = "linux.vmaxview.VmaXView"
STATES = {"held": True, "missing": False, "unread": "-", "none": None}


def by_pid(rows: list[dict[str, Any]]) -> dict[int, list[Region]]:
    found: dict[int, list[Region]] = {}
    for row in rows:
        found.setdefault(row["PID"], []).append((row["Start"], row["End"], row["Flags"]))
    return found


def processes(views: Views) -> list[tuple[int, int]]:
    pairs = dict.fromkeys(zip(views.tasks.tgid.tolist(), views.tasks.mm.tolist(), strict=True))
    return [(pid, mm) for pid, mm in pairs if mm]


@pytest.mark.skipif(not IMAGES, reason="no image: neither samples/*/image.kdump nor build/images/debian-*")
@pytest.mark.parametrize("image", IMAGES, ids=named)
def test_rows_are_those_of_the_report_and_of_the_guest(image: Path, vol: Vol) -> None:
    done = vol(image, PLUGIN)
    assert "ERROR" not in done.stderr
    rows = parse("json", done.stdout)
    views = analyse_image(image).views

    # The regions of the report: every VMA an index leads to.
    document = regions_by_mm(views, views.mms.mm)
    indexed = [row for row in rows if any(row[name] for _, name in VIEW_COLUMNS[:3])]
    listed = {
        (pid, int(one.start, 16), int(one.end, 16), one.perms, int(one.vma, 16))
        for pid, mm in processes(views)
        for one in document.get(mm, [])
    }
    assert {(row["PID"], row["Start"], row["End"], row["Flags"], row["VMA"]) for row in indexed} == listed

    if image.parent.name.startswith("tampered"):
        return
    known = truth(image)
    if known is not None:
        mine = by_pid([row for row in rows if row["VMA"] is not None])
        assert {pid: mine.get(pid) for pid in known} == {pid: sorted(own) for pid, own in known.items()}
    assert all(row["VMA agrees"] for row in rows if row["VMA"] is not None)
    for pid, mm in processes(views):
        own = shown_vmas(views, mm).vmas
        columns = (own.start.tolist(), own.end.tolist(), map(vma_permissions, own.flags.tolist()))
        expected = sorted(zip(*columns, strict=True))
        assert by_pid([row for row in rows if row["VMA"] is not None])[pid] == expected


@pytest.mark.parametrize("name", ["tampered-6.1", "debian-5.10"])
def test_verdicts_are_those_of_the_views_side_by_side(name: str, vol: Vol) -> None:
    image = ROOT / "samples" / name / "image.kdump"
    if not image.exists():
        pytest.skip(f"{image} is not there")
    rows = parse("json", vol(image, PLUGIN).stdout)
    views = analyse_image(image).views
    labels = {view.label: column for view, column in VIEW_COLUMNS}
    for pid in dict(processes(views)):
        sides = records_of_process(views, pid).document()
        mine = [row for row in rows if row["PID"] == pid]
        expected = [
            (int(row.start, 16), int(row.end, 16), row.vma and int(row.vma, 16), row.cells) for row in sides.rows
        ]
        key = [(row["Start"], row["End"], row["VMA"]) for row in mine]
        assert sorted(key, key=str) == sorted(((start, end, vma) for start, end, vma, _ in expected), key=str)
        found = dict(zip(key, mine, strict=True))
        for start, end, vma, cells in expected:
            for label, cell in cells.items():
                value = found[start, end, vma][labels[label]]
                # JSON writes N/A and unreadable alike.
                assert value == (STATES[cell.state] if cell.state in ("held", "missing") else None), (pid, start, label)


def test_a_vma_taken_out_of_the_tree_is_a_row(vol: Vol) -> None:
    image = ROOT / "samples/tampered-6.1/image.kdump"
    if not image.exists():
        pytest.skip(f"{image} is not there")
    lost = [row for row in parse("json", vol(image, PLUGIN).stdout) if row["In maple"] is False]
    (row,) = [row for row in lost if row["VMA"] is not None]
    # What the edit was (samples/tampered-6.1/manifest.json): the executable VMA of a shell.
    assert (row["In slab"], row["In i_mmap"], row["In page tables"], row["Flags"]) == (True, True, True, "r-xp")
    assert row["File Path"] == "/usr/bin/bash"


def test_columns_are_the_same_for_every_kernel(vol: Vol) -> None:
    for name, absent in (("debian-5.10", View.MAPLE), ("debian-6.12", View.LIST)):
        image = ROOT / "samples" / name / "image.kdump"
        if not image.exists():
            pytest.skip(f"{image} is not there")
        rows = parse("json", vol(image, PLUGIN, "--pid", "1").stdout)
        assert {row[dict(VIEW_COLUMNS)[absent]] for row in rows} == {None}
        assert {column for _, column in VIEW_COLUMNS} <= rows[0].keys()


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
        (bytes(1 << 21), "no Linux kernel"),
        (b"KDUMP   " + bytes(8192), "ERROR"),
    ],
    ids=["empty", "text", "zeros", "broken kdump"],
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
    ours = ("XView", "Findings", "Maps", "Pages", "Extract", "Crash", "Stacks")
    assert [name for name in ours if f"vma{name.lower()}.Vma{name}" not in text] == []
    assert "linux.pslist.PsList" in text
    failed = text.partition("could not be loaded")[2]
    assert not [name for name in ours if f"vma{name.lower()}" in failed]
