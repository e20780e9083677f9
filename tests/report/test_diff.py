"""Two images of one machine: what came, went and changed, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import msgspec
import pytest
from support import Edit, Sample, again_from_views, leader, mm_of

from vmaforensics.errors import ExitCode, UsageError
from vmaforensics.report.document.acquired import Torn
from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.diff import Difference, compare
from vmaforensics.report.document.document import Document, encode
from vmaforensics.report.document.json_text import json_text
from vmaforensics.report.formats.diff_text import render_diff, summary

from .hostile import handmade, inert, tampered_document, tampered_sample

if TYPE_CHECKING:
    from pathlib import Path

PID = 152  # the process of which the sample's edit took a VMA away
replace = msgspec.structs.replace


def clean_of(samples: list[Sample]) -> Sample:
    """The clean sample the tampered one was made from."""
    release = tampered_document().kernel.release
    boot = tampered_document().kernel.kaslr_offset
    for sample in samples:
        identity = sample.analysis.kernel.identity
        if identity.release == release and hex(identity.kaslr_offset or 0) == boot:
            return sample
    pytest.skip("the clean image of the tampered sample is not here")


@pytest.fixture(scope="module")
def clean(samples: list[Sample]) -> Document:
    return build_document(clean_of(samples).analysis)


def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmaforensics", "diff", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False)


@cache
def same() -> Difference:
    return compare(tampered_document(), tampered_document())


def changed(document: Document, pid: int, **facts: object) -> Document:
    processes = [replace(process, **facts) if process.pid == pid else process for process in document.processes]
    return replace(document, processes=processes)


def test_an_image_is_not_different_from_itself() -> None:
    assert same().findings == ()
    assert same().processes == ()
    assert summary(same()) == "Nothing is different."
    assert render_diff(same()).startswith("SUMMARY   Nothing is different.")


def test_what_an_intruder_did_between_two_images_is_what_is_told(clean: Document) -> None:
    found = compare(clean, tampered_document())
    (finding,) = found.findings
    assert (finding.how, finding.finding.severity, finding.finding.pid) == ("came", "high", PID)
    (process,) = found.processes
    assert (process.pid, process.regions_before - process.regions_after) == (PID, 1)
    (region,) = process.regions
    assert (region.how, region.region.start) == ("went", finding.finding.start)
    assert summary(found) == "1 new finding; 1 changed process; 1 gone region."
    back = compare(tampered_document(), clean)
    assert [finding.how for finding in back.findings] == ["went"]
    assert [region.how for region in back.processes[0].regions] == ["came"]


def test_the_command_takes_images_and_saved_reports(samples: list[Sample], clean: Document, tmp_path: Path) -> None:
    saved = tmp_path / "before.json"
    saved.write_bytes(encode(clean))
    image = tampered_sample().image_path
    shown = [run(one, image, "--format", "json", "--fail-on", "high") for one in (saved, clean_of(samples).image_path)]
    assert [line.returncode for line in shown] == [ExitCode.FINDINGS] * 2, shown[0].stderr
    first, second = (json.loads(line.stdout) for line in shown)
    assert first["schema"] == {"name": "vmaforensics-diff", "version": "1.0"}
    assert (first["findings"], first["processes"]) == (second["findings"], second["processes"])
    assert run(image, saved, "--fail-on", "high").returncode == 0  # it went
    text = run(saved, image)
    assert text.returncode == 0
    assert text.stdout.startswith(b"SUMMARY   1 new finding; 1 changed process; 1 gone region.")
    assert b"+ new     HIGH" in text.stdout


def test_images_of_two_boots_are_refused(samples: list[Sample]) -> None:
    other = next(
        sample for sample in samples if sample.analysis.kernel.identity.release != tampered_document().kernel.release
    )
    done = run(other.image_path, tampered_sample().image_path)
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == b""
    assert b"not of one boot of one machine" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "fact", [{"build_id": "00"}, {"kaslr_offset": "0x1000000"}, {"phys_base": 4096}, {"release": "6.1.0-other"}]
)
def test_any_sign_of_another_boot_is_enough(fact: dict[str, object]) -> None:
    document = tampered_document()
    with pytest.raises(UsageError, match="not of one boot"):
        compare(document, replace(document, kernel=replace(document.kernel, **fact)))


def test_another_first_task_is_another_boot() -> None:
    document = tampered_document()
    with pytest.raises(UsageError, match="task_struct of pid 1"):
        compare(document, changed(document, 1, task="0xffff888000001000"))


def test_doubts_are_told_and_do_not_stop() -> None:
    document = tampered_document()
    early = replace(document.kernel, booted="2026-01-01T00:00:00Z", clock="2026-01-01T02:00:00Z")
    late = replace(early, booted="2026-01-01T00:05:00Z", clock="2026-01-01T01:00:00Z", hostname="other")
    notes = compare(replace(document, kernel=early), replace(document, kernel=late)).notes
    assert any("the time of boot" in note for note in notes)
    assert any("may be exchanged" in note for note in notes)
    assert any("host" in note for note in notes)
    drifted = replace(early, booted="2026-01-01T00:00:30Z")
    assert not any(
        "time of boot" in note
        for note in compare(replace(document, kernel=early), replace(document, kernel=drifted)).notes
    )


def test_a_pid_that_was_used_again_is_another_process() -> None:
    document = tampered_document()
    found = compare(document, changed(document, PID, task="0xffff888012345000"))
    assert [(process.how, process.pid) for process in found.processes] == [("came", PID), ("went", PID)]
    times = [replace(process, started="2026-01-01T00:00:00Z") for process in document.processes]
    started = replace(document, processes=times)
    found = compare(started, changed(started, PID, started="2026-01-01T00:00:09Z"))
    assert [process.how for process in found.processes] == ["came", "went"]


def test_a_new_memory_map_is_told_and_not_listed_region_by_region() -> None:
    document = tampered_document()
    found = compare(document, changed(document, PID, mm="0xffff888012345000", comm="other"))
    (process,) = found.processes
    assert process.replaced
    assert process.regions == ()
    assert {change.fact for change in process.changes} == {"mm", "comm"}
    text = render_diff(found)
    assert "another memory map, as after execve" in text
    assert "comm: bash → other" in text


def test_regions_are_matched_by_their_vma_and_their_bounds() -> None:
    document = tampered_document()
    process = next(process for process in document.processes if process.pid == PID)
    first, second, third, *rest = process.regions
    after = [
        replace(first, end=hex(int(first.end, 16) + 4096)),  # grown
        replace(second, vma="0xffff888000000100"),  # unmapped and mapped again at the same place
        replace(third, start="0x1000", end="0x2000"),  # its vm_area_struct was freed and used for another
        *rest,
    ]
    (found,) = compare(document, changed(document, PID, regions=after)).processes
    told = sorted(
        (region.how, region.region.start, tuple(change.fact for change in region.changes)) for region in found.regions
    )
    assert told == sorted(
        [
            ("changed", first.start, ("end",)),
            ("changed", second.start, ("vma",)),
            ("came", "0x1000", ()),
            ("went", third.start, ()),
        ]
    )


def test_an_index_that_loses_a_region_comes_first_in_the_text() -> None:
    document = tampered_document()
    process = next(process for process in document.processes if process.pid == PID)
    last = process.regions[-1]
    after = [replace(region, end=hex(int(region.end, 16) + 4096)) for region in process.regions[:-1]]
    after.append(replace(last, seen=replace(last.seen, maple=None)))
    moved = [replace(one, seen=replace(one.seen, maple="0xffff888000000000")) for one in after[:-1]] + after[-1:]
    found = compare(document, changed(document, PID, regions=moved))
    text = render_diff(found)
    assert "maple held → maple missing" in text
    assert "more (-v shows them)" in text
    everything = render_diff(found, detail=1)
    assert everything.count(" end 0x") == len(after) - 1
    assert "0xffff888000000000" not in everything  # that the word moved is no news


def test_edits_of_a_running_machine_are_found_in_its_memory(either_sample: Sample) -> None:
    """A new name and a new total written into a copy of the image: nothing else is different."""
    analysis = either_sample.analysis
    edit = Edit(analysis)
    row = leader(analysis, 1)
    edit.write(edit.at("task_struct", int(row.task), "comm"), b"renamed".ljust(16, b"\0"))
    mm = mm_of(analysis, 1)
    count = edit.at("mm_struct", mm, "map_count")
    edit.put(count, (edit.get(count) & 0xFFFFFFFF) + 1, 4)
    found = compare(build_document(analysis), build_document(again_from_views(analysis, edit.overlay)))
    assert [(process.pid, [change.after for change in process.changes]) for process in found.processes] == [
        (1, ["renamed"])
    ]
    assert {finding.finding.pid for finding in found.findings} == {1}
    assert {finding.how for finding in found.findings} == {"came"}


def test_a_finding_that_has_become_worse_fails_the_run(tmp_path: Path) -> None:
    document = tampered_document()
    findings = [
        replace(finding, severity="low") if finding.severity == "high" else finding for finding in document.findings
    ]
    low = replace(document, findings=findings)
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, one in zip(paths, (low, document), strict=True):
        path.write_bytes(encode(one))
    assert run(*paths, "--fail-on", "high").returncode == ExitCode.FINDINGS
    assert run(*paths, "--fail-on", "critical").returncode == 0
    assert run(*reversed(paths), "--fail-on", "low").returncode == 0


def torn(rule: str, *, found: str = "1", mm: str = "0xffff888000000000", view: str = "maple tree") -> Torn:
    return Torn(
        rule=rule,
        severity="high",
        pid=7,
        comm="busy",
        mm=mm,
        what=f"{rule} says so",
        view=view,
        address="0xffff888000000100",
        found=found,
        expected="2",
    )


def acquired_live(*rows: Torn) -> Document:
    document = tampered_document()
    assert document.acquired is not None
    return replace(document, acquired=replace(document.acquired, how="live", torn=rows))


def test_what_was_torn_in_each_of_two_acquisitions_and_says_the_same_is_no_smear(tmp_path: Path) -> None:
    stays, went = torn("PTE-PERM"), torn("VMA-RANGE", found="3")
    before, after = acquired_live(stays, went), acquired_live(torn("VMA-RANGE", found="4"), stays)
    found = compare(before, after)
    (row,) = (row for row in found.persisting if row.torn)
    assert (row.rule, row.severity, row.pid, row.what) == ("PTE-PERM", "high", 7, ("PTE-PERM says so",))
    assert {row.rule for row in found.persisting if not row.torn} == {one.rule for one in after.findings}
    assert summary(found) == "1 contradiction torn in each that stays."
    assert "= torn in each HIGH      PTE-PERM  pid 7 (busy)\n    PTE-PERM says so\n" in render_diff(found)
    saved = [tmp_path / name for name in ("before.json", "after.json")]
    for path, document in zip(saved, (before, after), strict=True):
        path.write_bytes(encode(document))
    assert run(*saved, "--fail-on", "high").returncode == ExitCode.FINDINGS
    assert run(*saved, "--fail-on", "critical").returncode == ExitCode.OK


def test_what_a_broken_index_does_not_lead_to_is_missing_each_time_and_proves_nothing() -> None:
    rows = torn("MT-NODE"), torn("VMA-SLAB-ORPHAN"), torn("VMA-RANGE"), torn("VMA-MISSING")
    found = compare(acquired_live(*rows), acquired_live(*rows))
    assert [row.rule for row in found.persisting if row.torn] == ["VMA-MISSING", "VMA-RANGE"]


def test_what_is_not_in_a_tree_that_everybody_changes_may_be_torn_out_each_time() -> None:
    absent = torn("RMAP-FILE-MISSING", view="i_mmap")
    named = replace(
        absent, what="the node 0x1 that it names as its parent is in the tree, and has no such child", pid=8
    )
    assert [row.rule for row in compare(acquired_live(absent), acquired_live(absent)).persisting if row.torn] == []
    (row,) = (row for row in compare(acquired_live(named), acquired_live(named)).persisting if row.torn)
    assert row.pid == 8


def test_a_foreign_frame_stays_whatever_it_holds_meanwhile() -> None:
    rows = [
        replace(torn(rule), what=f"{rule}: {count} bytes differ")
        for rule in ("TEXT-MODIFIED", "PTE-REMAP")
        for count in (3, 4)
    ]
    found = compare(acquired_live(rows[0], rows[2]), acquired_live(rows[1], rows[3]))
    assert [(row.rule, row.what) for row in found.persisting if row.torn] == [("TEXT-MODIFIED", (rows[1].what,))]


def test_images_of_machines_that_stood_still_have_nothing_that_persists() -> None:
    assert same().persisting == ()


def test_hostile_names_are_inert_in_a_difference() -> None:
    document = handmade(tampered_document())
    other = replace(document, processes=document.processes[: len(document.processes) // 2], findings=[])
    kernel = replace(document.kernel, clock=None, booted=None)
    found = compare(replace(other, kernel=kernel), replace(document, kernel=kernel))
    for detail in (-1, 0, 2):
        assert inert(render_diff(found, detail=detail))
    raw = json_text(found).decode()
    assert inert(raw)
    assert json.loads(raw)["schema"]["name"] == "vmaforensics-diff"
