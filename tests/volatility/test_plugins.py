"""The other plugins, as the real ``vol`` runs them, against what the engine and the guest say."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from image import build

from vmaforensics.analysis import analyse_image
from vmaforensics.cli.main import main
from vmaforensics.image.open import open_image
from vmaforensics.image.placed import PAGE_SIZE, PageState
from vmaforensics.kernel.find import find_kernel
from vmaforensics.report.document.finding_parts import finding_part
from vmaforensics.views.gather import gather_views

from .conftest import ROOT, Vol, parse, truth
from .containers import Pages

if TYPE_CHECKING:
    from pathlib import Path

TAMPERED = ROOT / "samples/tampered-6.1/image.kdump"
OLD = ROOT / "samples/debian-5.10/image.kdump"
FINDINGS, MAPS = "linux.vmafindings.VmaFindings", "linux.vmamaps.VmaMaps"
PAGES, EXTRACT = "linux.vmapages.VmaPages", "linux.vmaextract.VmaExtract"

pytestmark = pytest.mark.skipif(not TAMPERED.exists() or not OLD.exists(), reason="the samples are not there")


def test_findings_are_those_of_the_report_with_their_evidence(vol: Vol) -> None:
    rows = json.loads(vol(TAMPERED, FINDINGS).stdout)
    known = [finding_part(finding) for finding in analyse_image(TAMPERED).findings]
    assert [(row["ID"], row["Rule"], row["Severity"], row["PID"]) for row in rows] == [
        (one.id, one.rule, one.severity, one.pid) for one in known
    ]
    for row, one in zip(rows, known, strict=True):
        assert [(item["What"], item["View"], item["ID"]) for item in row["__children"]] == [
            (item.what, item.view or None, one.id) for item in one.evidence
        ]
    # The edit that the sample is about: samples/tampered-6.1/manifest.json.
    (high,) = [row for row in rows if row["Severity"] == "high"]
    assert (high["Rule"], high["Process"]) == ("VMA-MISSING", "bash")


@pytest.mark.parametrize("renderer", ["quick", "csv", "pretty", "jsonl"])
def test_every_renderer_shows_findings_and_evidence(vol: Vol, renderer: str) -> None:
    text = vol(TAMPERED, FINDINGS, "--min-severity", "high", renderer=renderer).stdout
    assert "VMA-MISSING" in text
    assert "map_count is" in text
    assert "VMA-EXEC-ANON" not in text


def test_maps_are_the_guests_own(vol: Vol) -> None:
    rows = parse("json", vol(OLD, MAPS).stdout)
    known = truth(OLD)
    assert known
    found: dict[int, list[Any]] = {}
    for row in rows:
        if row["File Path"] != "[vsyscall]":
            found.setdefault(row["PID"], []).append((row["Start"], row["End"], row["Flags"]))
    assert {pid: found[pid] for pid in known} == known


def test_maps_rows_say_what_the_maps_verb_prints(vol: Vol, capsys: pytest.CaptureFixture[str]) -> None:
    rows = parse("json", vol(OLD, MAPS, "--pid", "1").stdout)
    assert main(["maps", str(OLD), "--pid", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        start, end, perms, pgoff, major, minor, inode = line.replace("-", " ", 1).replace(":", " ", 1).split()[:7]
        assert [row[name] for name in ("Start", "End", "PgOff", "Major", "Minor")] == [
            int(value, 16) for value in (start, end, pgoff, major, minor)
        ]
        assert (row["Flags"], row["Inode"]) == (perms, int(inode))
        assert (row["File Path"] or "") == line[73:]


def test_dumped_regions_hold_the_bytes_of_the_image(vol: Vol, tmp_path: Path) -> None:
    kernel = find_kernel(open_image(OLD))
    views = gather_views(kernel, wanted=("page-tables",))
    view = views.page_tables
    assert view is not None
    # The samples hold no user memory: give a page of a process some.
    small = view.ptes.take((view.ptes.level == 1) & (view.ptes.state == 0) & (view.ptes.range_row >= 0))
    at = int(np.flatnonzero(kernel.memory.page_states(small.pfn) == PageState.ABSENT)[0])
    address, contents = int(small.va[at]), build.page(99)
    pid = int(views.mms.pid[small.mm_row[at]])
    pages = Pages(open_image(OLD))
    pages.put(int(small.pfn[at]), contents)
    image = tmp_path / "image.kdump"
    image.write_bytes(pages.kdump("lzo"))
    asked = ("--pid", str(pid), "--address", hex(address))

    (row,) = parse("json", vol(image, MAPS, *asked, "--dump", before=("-o", str(tmp_path))).stdout)
    written = (tmp_path / row["File output"]).read_bytes()
    assert row["File output"] == f"pid.{pid}.vma.{row['Start']:#x}-{row['End']:#x}.dmp"
    assert len(written) == row["End"] - row["Start"]
    offset = address - row["Start"]
    assert written[offset : offset + PAGE_SIZE] == contents

    rows = parse("json", vol(image, EXTRACT, *asked, before=("-o", str(tmp_path))).stdout)
    file, manifest = (tmp_path / row["File output"] for row in rows)
    assert file.read_bytes() == written
    assert rows[0]["SHA-256"] == hashlib.sha256(written).hexdigest()
    assert rows[0]["Pages present"] >= 1
    described = msgspec.json.decode(manifest.read_bytes())["regions"][0]
    assert (described["file"], described["sha256"]) == (file.name, rows[0]["SHA-256"])

    done = vol(image, MAPS, *asked, "--dump", "--maxsize", "16", before=("-o", str(tmp_path)))
    assert parse("json", done.stdout)[0]["File output"] == "Error outputting file"
    assert "--maxsize" in done.stderr


def test_a_finding_is_extracted_by_its_id(vol: Vol, tmp_path: Path) -> None:
    (high,) = json.loads(vol(TAMPERED, FINDINGS, "--min-severity", "high").stdout)
    rows = parse("json", vol(TAMPERED, EXTRACT, "--finding", high["ID"], before=("-o", str(tmp_path))).stdout)
    # The range of the finding, cut where pages end: 0xc1000 bytes, in pieces that VMAs or page tables know.
    inside = [row for row in rows if row["Start"] is not None]
    assert inside[0]["Start"] >= high["Start"]
    assert inside[-1]["End"] <= high["End"]
    assert all((tmp_path / row["File output"]).stat().st_size == row["End"] - row["Start"] for row in inside)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "say what to extract"),
        (("--address", "0x1000"), "say what to extract"),
        (("--finding", "nosuchfindin"), "no finding has the id"),
        (("--pid", "1", "--address", "0x1"), "covers 0x1"),
        (("--pfn", "0x10", "--count", "-1"), "no range of physical memory"),
    ],
)
def test_wrong_requests_are_one_line_and_no_file(
    vol: Vol, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    done = vol(TAMPERED, EXTRACT, *options, before=("-o", str(tmp_path)))
    assert json.loads(done.stdout) == []
    assert words in done.stderr
    assert "bug" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_pages_are_those_of_the_pages_verb(vol: Vol, capsys: pytest.CaptureFixture[str]) -> None:
    rows = parse("json", vol(TAMPERED, PAGES, "--pid", "1").stdout)
    assert main(["pages", str(TAMPERED), "--pid", "1", "--format", "json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(row["Start"], row["End"], row["Entry"], row["Allows"], row["Owner"]) for row in rows] == [
        (int(run["start"], 16), int(run["end"], 16), int(run["entry"], 16), run["perms"], run["owner"]) for run in runs
    ]
    assert len(rows) > 5


def test_pages_of_a_vma_out_of_the_tree_are_in_no_vma(vol: Vol) -> None:
    (high,) = json.loads(vol(TAMPERED, FINDINGS, "--min-severity", "high").stdout)
    rows = parse("json", vol(TAMPERED, PAGES, "--pid", str(high["PID"]), "--address", hex(high["Start"])).stdout)
    assert rows[0]["Start"] == high["Start"]
    assert {row["Area"] for row in rows} == {"in no area"}
    assert all(row["Disagrees"] for row in rows)
