from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, Row, again_from_views, row_at, rows_in
from tamper.page_edits import ghost_huge_page, ghost_page

from vmaforensics.arch.page_tables import PteState
from vmaforensics.cli.main import main
from vmaforensics.compare.ranges import mm_of
from vmaforensics.errors import ExitCode, OutputError, UsageError
from vmaforensics.export.extract import Region, Written, check_size, extract, open_folder
from vmaforensics.export.extract_regions import finding_regions, frame_regions, process_regions
from vmaforensics.export.page_source import STATES, mapped_pages
from vmaforensics.image.placed import PageState
from vmaforensics.report.document.finding_parts import finding_part
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from support import Sample

    from vmaforensics.analysis import Analysis

PAGE = 4096


def written(analysis: Analysis, regions: list[Region], folder: Path) -> list[tuple[Written, bytes]]:
    """Extract, and check what must hold of every extraction."""
    found = extract(analysis.kernel, analysis.views, regions, folder, {})
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert {path.name for path in folder.iterdir()} == {region.file for region in regions} | {"manifest.json"}
    out = []
    for item, part in zip(found, manifest["regions"], strict=True):
        data = (folder / item.region.file).read_bytes()
        assert part["sha256"] == hashlib.sha256(data).hexdigest() == item.sha256
        assert part["size"] == len(data) == item.region.end - item.region.start
        assert sum(part["pages"].values()) == len(data) // PAGE
        at = item.region.start
        for run in part["runs"]:
            assert int(run["start"], 16) == at
            assert run["state"] in STATES
            assert part["pages"][run["state"]] >= run["pages"]
            low = at - item.region.start
            if run["state"] != "present":
                assert not data[low : low + run["pages"] * PAGE].strip(b"\0")
            at += run["pages"] * PAGE
        assert at == item.region.end
        out.append((item, data))
    return out


def holds_user_pages(sample: Sample) -> bool:
    view = sample.analysis.views.page_tables
    assert view is not None
    anon = view.pages.pfn[view.pages.anon]
    return bool((sample.analysis.image.memory.page_states(anon) == PageState.PRESENT).any())


def whole(sample: Sample) -> Sample:
    if not holds_user_pages(sample):
        pytest.skip("no user page is in this image")
    return sample


def areas(analysis: Analysis, name: bytes) -> list[tuple[int, Row]]:
    """(pid, VMA) of every VMA called so, of processes that lead the list of their mm."""
    views = analysis.views
    pids = dict(zip(views.mms.mm.tolist(), views.mms.pid.tolist(), strict=True))
    rows = (row for row, one in enumerate(views.names) if one == name)
    return [(pids[int(views.vmas.mm[row])], row_at(views.vmas, row)) for row in rows if int(views.vmas.mm[row]) in pids]


def test_the_first_page_of_a_program_is_an_elf_header(whole_kernel: Sample, tmp_path: Path) -> None:
    analysis = whole(whole_kernel).analysis
    found = 0
    for number, (pid, area) in enumerate(areas(analysis, b"/usr/bin/busybox")[:8]):
        if area.pgoff or area.kind != Kind.FILE:
            continue
        folder = tmp_path / str(number)
        open_folder(folder)
        ((one, data),) = written(analysis, process_regions(analysis.views, pid, int(area.start)), folder)
        assert one.region.file == f"{pid}-{int(area.start):x}-{int(area.end):x}.bin"
        if one.runs[0].state == "present":
            assert data.startswith(b"\x7fELF")
            found += 1
    assert found


def test_the_vdso_is_an_elf_file_and_the_same_in_every_process(whole_kernel: Sample, tmp_path: Path) -> None:
    analysis = whole(whole_kernel).analysis
    contents = set()
    for number, (pid, area) in enumerate(areas(analysis, b"[vdso]")[:8]):
        folder = tmp_path / str(number)
        open_folder(folder)
        ((one, data),) = written(analysis, process_regions(analysis.views, pid, int(area.start)), folder)
        # Pages nobody called are not mapped.
        if one.counts == {"present": len(data) // PAGE} and len(data) > PAGE:
            contents.add(data)
            assert data.startswith(b"\x7fELF")
        elif one.runs[0].state == "present":
            assert data.startswith(b"\x7fELF")
    assert len(contents) <= 2  # those of 64 and of 32 bits


def test_arguments_are_those_of_proc_pid_cmdline(whole_kernel: Sample, tmp_path: Path) -> None:
    analysis, truth = whole(whole_kernel).analysis, whole_kernel.truth
    compared = 0
    for mm in rows_in(analysis.views.mms.take(slice(24))):
        pid, low, high = int(mm.pid), int(mm.arg_start), int(mm.arg_end)
        expected = truth.get(f"proc/{pid}/cmdline")
        if pid == truth.capturing or not expected or not low or len(expected) != high - low:
            continue
        folder = tmp_path / str(pid)
        open_folder(folder)
        try:
            ((one, data),) = written(analysis, process_regions(analysis.views, pid, low), folder)
        except UsageError:
            continue  # PR_SET_MM: they may be said to be anywhere
        views, start, end = analysis.views, low & -PAGE, -(-high // PAGE) * PAGE
        pages = mapped_pages(analysis.kernel, views.mms, views.page_tables, int(mm.mm), start, end)
        if pages.has_bytes.all():
            assert data[low - one.region.start : high - one.region.start] == expected
            compared += 1
    assert compared > 10


def test_an_excerpt_has_no_user_page_and_says_so_of_each(sample: Sample, tmp_path: Path) -> None:
    if holds_user_pages(sample):
        pytest.skip("this image holds user pages")
    analysis = sample.analysis
    kinds: set[str] = set()
    for pid, area in areas(analysis, b"[stack]")[:5] + areas(analysis, b"/usr/bin/busybox")[:5]:
        folder = tmp_path / f"{pid}-{int(area.start):x}"
        open_folder(folder)
        ((one, data),) = written(analysis, process_regions(analysis.views, pid, int(area.start)), folder)
        assert not data.strip(b"\0")
        kinds |= one.counts.keys()
        assert "present" not in one.counts
        assert all(run.pfn for run in one.runs if run.state == "not in the dump")
    assert "not in the dump" in kinds


def test_swapped_pages_and_pages_of_zeros_are_told(sample: Sample, tmp_path: Path) -> None:
    analysis = sample.analysis
    view = analysis.views.page_tables
    assert view is not None
    swapped = row_at(view.ptes.take(view.ptes.state == PteState.SWAP), 0)
    pid = int(analysis.views.mms.pid[swapped.mm_row])
    ((one, _),) = written(analysis, process_regions(analysis.views, pid, int(swapped.va)), tmp_path)
    assert one.counts["swapped"] >= 1
    assert hex(int(swapped.entry)) in {run.entry for run in one.runs}


@pytest.mark.parametrize("edit", [ghost_page, ghost_huge_page], ids=lambda edit: edit.__name__)
def test_memory_that_only_the_page_tables_know_is_found_by_address_and_by_finding(
    either_sample: Sample, tmp_path: Path, edit: object
) -> None:
    copy = Edit(either_sample.analysis)
    label = edit(copy)  # type: ignore[operator]
    found = again_from_views(either_sample.analysis, copy.overlay)
    (region,) = process_regions(found.views, label.pid, label.start + 8)
    assert (region.start, region.end) == (label.start, label.end)
    (mine,) = (finding for finding in found.findings if finding.rule.id == "PTE-ORPHAN" and finding.pid == label.pid)
    ((one, _),) = written(found, finding_regions(found.views, found.findings, finding_part(mine).id), tmp_path)
    assert (one.region.start, one.region.end) == (label.start, label.end)
    assert one.region.facts["area"] is None
    assert one.runs[0].perms == "rwx"


def test_findings_without_a_range_and_unknown_ones_are_wrong_usage(sample: Sample) -> None:
    with pytest.raises(UsageError, match="no finding has the id"):
        finding_regions(sample.analysis.views, sample.analysis.findings, "\x1b[2J")


def test_page_frames_are_written_with_what_their_struct_pages_say(whole_kernel: Sample, tmp_path: Path) -> None:
    analysis = whole_kernel.analysis
    view = analysis.views.page_tables
    assert view is not None
    first = int(view.pages.pfn[view.pages.anon][0])
    ((one, data),) = written(analysis, frame_regions(analysis.kernel, first, 3), tmp_path)
    pas = (np.arange(3, dtype=np.uint64) + np.uint64(first)) << np.uint64(12)
    raw, ok = analysis.image.memory.gather(pas, PAGE)
    assert data == raw.tobytes()
    assert one.counts.get("present", 0) == int(ok.sum())
    facts = one.region.facts["struct_pages"]
    assert isinstance(facts, list)
    assert facts[0]["pfn"] == hex(first)
    assert facts[0]["anonymous"] is True


def test_frames_outside_ram_are_not_taken_for_zeros(sample: Sample, tmp_path: Path) -> None:
    beyond = int(sample.analysis.image.memory.ranges[-1, 1]) >> 12
    ((one, _),) = written(sample.analysis, frame_regions(sample.analysis.kernel, beyond + 16, 2), tmp_path)
    assert one.counts == {"not RAM": 2}
    for first, count in ((0, 0), (1 << 40, 1), (0, -1), (0, 1 << 60)):
        with pytest.raises(UsageError):
            frame_regions(sample.analysis.kernel, first, count)


def test_what_lies_below_a_lost_page_table_is_unknown_not_unmapped(sample: Sample, tmp_path: Path) -> None:
    clean = sample.analysis
    view = clean.views.page_tables
    assert view is not None
    pid, area = areas(clean, b"[stack]")[0]
    row = clean.views.mm_rows(np.array([mm_of(clean.views, pid)], np.uint64))[0]
    start = int(area.end) - PAGE
    below = (view.tables.owner == row) & (view.tables.level == 1)
    (table,) = rows_in(view.tables.take(below & (view.tables.va == np.uint64(start >> 21 << 21))))
    edit = Edit(clean)
    edit.overlay.drop(int(table.pa) >> 12)
    found = again_from_views(clean, edit.overlay)
    ((one, _),) = written(found, process_regions(found.views, pid, start), tmp_path)
    assert set(one.counts) == {"unknown"} or one.counts["unknown"] >= 1
    assert one.runs[-1].state == "unknown"


def test_more_than_the_limit_is_refused(sample: Sample) -> None:
    big = Region.of_process(1, 1, (0, 5 << 30))
    with pytest.raises(UsageError, match="--max 5368709120"):
        check_size([big], 4 << 30)
    check_size([big], 5 << 30)
    with pytest.raises(UsageError, match="nothing"):
        check_size([dataclasses.replace(big, end=0)], 4 << 30)


def test_a_folder_that_holds_something_is_refused_and_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(OutputError, match="not empty"):
        open_folder(tmp_path)
    open_folder(tmp_path, force=True)
    assert (tmp_path / "mine").read_text() == "keep"
    with pytest.raises(OutputError, match="no folder"):
        open_folder(tmp_path / "mine", force=True)
    with pytest.raises(OutputError, match="cannot write"):
        open_folder(tmp_path / "not" / "there")


def test_a_link_in_the_folder_is_replaced_and_not_followed(sample: Sample, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_text("untouched")
    folder.mkdir()
    regions = frame_regions(sample.analysis.kernel, 1, 1)
    for name in (regions[0].file, "manifest.json"):
        (folder / name).symlink_to(outside)
    open_folder(folder, force=True)
    written(sample.analysis, regions, folder)
    assert outside.read_text() == "untouched"
    assert not (folder / regions[0].file).is_symlink()


def test_the_command_writes_a_region_and_refuses_to_do_so_again(
    either_sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, folder = str(either_sample.image_path), str(tmp_path / "out")
    pid, area = areas(either_sample.analysis, b"[stack]")[0]
    at = f"{int(area.start):#x}"
    assert main(["extract", image, "--pid", str(pid), "--at", at, "-o", folder]) == ExitCode.OK
    assert f"{pid}-{int(area.start):x}-" in capsys.readouterr().out
    assert main(["extract", image, "--pid", str(pid), "--at", at, "-o", folder]) == ExitCode.OUTPUT
    assert main(["extract", image, "--at", at, "-o", str(tmp_path / "other")]) == ExitCode.USAGE
    assert not (tmp_path / "other").exists()
    assert main(["extract", image, "--pfn", "1", "--count", "2", "--max", "4K", "-o", folder]) == ExitCode.USAGE
