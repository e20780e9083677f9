"""Rules over images of whole kernels: what is planted in any kind of memory is found once, with whose it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jsonschema
import numpy as np
import pytest
from support import ROOT, Edit, again_from_views, needs_user_memory
from tamper.page_edits import ghost_page

from vmaforensics.arch.page_tables import PteState
from vmaforensics.cli.main import main
from vmaforensics.errors import ExitCode, RulesError
from vmaforensics.image.placed import PageState
from vmaforensics.scan.document import json_schema
from vmaforensics.scan.places import PlaceKind
from vmaforensics.scan.rules import compile_rules
from vmaforensics.scan.scan import Request, scan_image
from vmaforensics.scan.worker import Settings
from vmaforensics.views.pages.frame_kinds import FrameKind

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from support import Sample

    from vmaforensics.analysis import Analysis
    from vmaforensics.scan.document import ScanPart

pytest.importorskip("yara_x")

RULES = """
rule planted : test {
  meta: author = "nobody" number = 7
  strings: $a = "PLANTED BY A TEST"
  condition: $a
}
"""
MARK = b"PLANTED BY A TEST"


def scan(
    analysis: Analysis, rules: str, tmp_path: Path, *, jobs: int = 1, kinds: Collection[PlaceKind] = tuple(PlaceKind)
) -> ScanPart:
    path = tmp_path / "rules.yar"
    path.write_text(rules)
    compiled = compile_rules([path])
    request = Request(rules=compiled, jobs=jobs, kinds=kinds, settings=Settings(rules=compiled.serialized))
    return scan_image(analysis.kernel, analysis.views, request)


def private_page(analysis: Analysis) -> tuple[int, int, int]:
    """(pid, address, physical) of a page that one process alone has."""
    view = analysis.views.page_tables
    assert view is not None
    ptes = view.ptes.take((view.ptes.page_row >= 0) & (view.ptes.state == PteState.PRESENT) & (view.ptes.level == 1))
    pages = view.pages.take(ptes.page_row)
    alone = np.flatnonzero(pages.anon & ~pages.ksm & (pages.mapcount == 1) & ~pages.compound)
    row = int(alone[len(alone) // 2])
    return int(analysis.views.mms.pid[ptes.mm_row[row]]), int(ptes.va[row]), int(ptes.pfn[row]) << 12


@needs_user_memory
def test_what_is_planted_is_found_once_wherever_it_lies(whole_kernel: Sample, tmp_path: Path) -> None:
    clean = whole_kernel.analysis
    copy = Edit(clean)
    label = ghost_page(copy)  # a page that only a page-table entry leads to
    hidden = again_from_views(clean, copy.overlay)
    view, frames, handles = hidden.views.page_tables, hidden.views.frames, hidden.views.handles
    assert view is not None
    assert frames is not None
    assert handles is not None
    pid, address, physical = private_page(clean)
    ghost = view.ptes.take(view.ptes.va == np.uint64(label.start))
    places = {"process": physical + 100, "hidden": (int(ghost.pfn[0]) << 12) + 200}
    files = handles.memory_files
    files = files.take(files.internal & (frames.kinds.of(files.pa >> np.uint64(12)) == FrameKind.PAGE_CACHE))
    places["file"] = int(files.pa[0]) + 300
    free = frames.kinds.all_of(FrameKind.FREE)
    free = free[clean.image.memory.page_states(free) == PageState.PRESENT]
    places["free"] = (int(free[len(free) // 2]) << 12) + 400
    assert len(set(places.values())) == 4
    for where in places.values():
        copy.overlay.write(where, MARK)
    found = scan(hidden, RULES, tmp_path, jobs=2)
    by_place = {int(match.physical, 16): finding for finding in found.findings for match in finding.matches}
    assert sorted(by_place) == sorted(places.values())
    assert len(found.findings) == 4
    assert {key: by_place[where].where for key, where in places.items()} == {
        "process": "process memory",
        "hidden": by_place[places["hidden"]].where,
        "file": "page cache",
        "free": "free frames",
    }
    (owner,) = by_place[places["process"]].owners
    assert (owner.pid, int(owner.address, 16), owner.hidden) == (pid, address + 100, False)
    ghosts = [owner for owner in by_place[places["hidden"]].owners if owner.hidden]
    assert [(owner.pid, owner.shown_by) for owner in ghosts] == [(label.pid, ("page tables",))]
    assert not by_place[places["free"]].owners
    assert found.findings[0].meta == {"author": "nobody", "number": 7}
    assert found.findings[0].tags == ("test",)
    alone = scan(hidden, RULES, tmp_path)
    assert [finding.id for finding in alone.findings] == [finding.id for finding in found.findings]


@needs_user_memory
def test_a_page_of_a_library_is_one_finding_with_all_who_map_it(whole_kernel: Sample, tmp_path: Path) -> None:
    rules = 'rule libc { strings: $a = "GNU C Library (Debian GLIBC" condition: $a }'
    found = scan(whole_kernel.analysis, rules, tmp_path, kinds=(PlaceKind.FILE, PlaceKind.REGION))
    mine = [finding for finding in found.findings if finding.place.startswith("/usr/lib/x86_64-linux-gnu/libc.so.6")]
    assert len(mine) == 1
    owners = [owner for owner in mine[0].owners if owner.name == "/usr/lib/x86_64-linux-gnu/libc.so.6"]
    assert len(owners) > 10
    assert len({owner.pid for owner in owners}) == len(owners)
    assert found.shared_pages > 1000


@needs_user_memory
def test_the_condition_of_a_rule_sees_a_file_from_its_start(whole_kernel: Sample, tmp_path: Path) -> None:
    """The text of a program and its header are different VMAs, but one file."""
    rules = 'rule elf { strings: $a = "/lib64/ld-linux-x86-64.so.2" condition: uint32(0) == 0x464c457f and $a }'
    found = scan(whole_kernel.analysis, rules, tmp_path, kinds=(PlaceKind.FILE,))
    assert any(finding.place.startswith("/usr/bin/bash") for finding in found.findings)


@needs_user_memory
def test_strings_and_entropy_are_told_by_region(whole_kernel: Sample) -> None:
    analysis = whole_kernel.analysis
    pid, _, _ = private_page(analysis)
    found = scan_image(analysis.kernel, analysis.views, Request(pids=[pid], settings=Settings(strings=8)))
    assert found.strings
    assert all(place.pid == pid and 0 <= place.entropy <= 8 for place in found.strings)
    assert any(text for place in found.strings for _, _, text in place.strings)


def test_rules_that_do_not_compile_are_one_sentence(
    tampered: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yar"
    path.write_text("rule x {\n condition: foo }")
    assert main(["scan", str(tampered.image_path), "--yara", str(path)]) == ExitCode.RULES
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "bad.yar cannot be compiled: error[E009]: unknown identifier `foo`" in told
    assert "2:13" in told
    for wrong, why in ((tmp_path / "none.yar", "No such file"), (tmp_path / "empty", "has no file")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(RulesError, match=why):
            compile_rules([wrong])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RulesError, match="UTF-8"):
        compile_rules([path])


def test_the_document_is_that_of_its_schema(tampered: Sample, tmp_path: Path) -> None:
    schema = json.loads((ROOT / "docs/schema/scan-1.0.json").read_bytes())
    assert schema == json.loads(json.dumps(json_schema()))
    rules, out = tmp_path / "r.yar", tmp_path / "scan.json"
    rules.write_text('rule letter { strings: $a = "a" condition: $a }')
    command = ["scan", str(tampered.image_path), "--yara", str(rules), "--format", "json", "--fail-on-match"]
    assert main([*command, "--jobs", "1", "--max-matches", "3", "-o", str(out)]) in (ExitCode.OK, ExitCode.FINDINGS)
    document = json.loads(out.read_bytes())
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["scan"]["rules"][0]["sha256"]


def test_nothing_to_look_for_is_wrong_usage(tampered: Sample) -> None:
    for wrong in ([], ["--strings", "1"], ["--strings", "--in", "heaven"], ["--strings", "--timeout", "0"]):
        assert main(["scan", str(tampered.image_path), *wrong]) == ExitCode.USAGE


def test_a_report_keeps_what_the_rules_found(tampered: Sample, tmp_path: Path) -> None:
    rules, saved, text = tmp_path / "r.yar", tmp_path / "case.json", tmp_path / "case.txt"
    rules.write_text("rule everywhere { condition: filesize > 0 }")
    image = str(tampered.image_path)
    assert main(["report", image, "--yara", str(rules), "--format", "json", "-o", str(saved)]) == ExitCode.OK
    scan = json.loads(saved.read_bytes())["scan"]
    assert scan["findings"]
    assert main(["report", str(saved), "-o", str(text)]) == ExitCode.OK
    assert "everywhere" in text.read_text()
    assert main(["report", str(saved), "--yara", str(rules)]) == ExitCode.USAGE
    document = json.loads(saved.read_bytes())
    document["scan"]["findings"][0]["start"] = "javascript:alert(1)"
    saved.write_text(json.dumps(document))
    assert main(["report", str(saved)]) == ExitCode.DOCUMENT_INVALID
