"""The memory maps of the document: every record of what a finding is about, and the index around it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, Sample, again_from_views, mm_of
from tamper.edits import (
    Label,
    list_cycle,
    list_only,
    maple_dead_node,
    maple_parent_junk,
    maple_root_emptied,
    tree_only,
)
from tamper.slab_edits import task_off_both

from vmaforensics.checks.finding import Confidence, Evidence, Finding, Severity
from vmaforensics.checks.vmas.vma_range import RULE
from vmaforensics.cli.main import main
from vmaforensics.compare.nearby.nodes import MOST as MOST_NODES
from vmaforensics.compare.ranges import mm_of as mm_of_pid
from vmaforensics.compare.records import records_of_mm, records_of_process
from vmaforensics.errors import ExitCode, UsageError
from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.memory_maps import MOST, MOST_ROWS, memory_maps

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.analysis import Analysis
    from vmaforensics.report.document.parts import MemoryMap


def edited(sample: Sample, edit: Callable[[Edit], Label]) -> tuple[Analysis, Label, Edit]:
    copy = Edit(sample.analysis)
    label = edit(copy)
    return again_from_views(sample.analysis, copy.overlay), label, copy


def map_of(analysis: Analysis, pid: int) -> MemoryMap:
    (found,) = (memory_map for memory_map in build_document(analysis).maps if memory_map.pid == pid)
    return found


def drawn(one: MemoryMap) -> None:
    """What holds of every picture: few nodes, each after the one above it."""
    assert len(one.nodes) <= MOST_NODES
    seen: set[str | None] = {None}
    for node in one.nodes:
        assert node.parent in seen or one.index == "vm_next list", node
        assert int(node.start, 16) <= int(node.end, 16) <= 1 << 64
        seen.add(node.address)


def guest_ranges(sample: Sample, pid: int) -> list[tuple[int, int]]:
    """Ranges of /proc/PID/maps; the gate area is in no index."""
    lines = sample.truth[f"proc/{pid}/maps"].decode("latin-1").splitlines()
    ends = [line.split()[0].split("-") for line in lines if not line.endswith("[vsyscall]")]
    return [(int(start, 16), int(end, 16)) for start, end in ends]


def row_ranges(one: MemoryMap) -> list[tuple[int, int]]:
    return [(int(row.start, 16), int(row.end, 16)) for row in one.rows]


def test_a_map_holds_the_vmas_that_the_guest_showed_and_where_each_record_stands(tampered: Sample) -> None:
    """The hidden VMA is the one that the sample's manifest says was edited."""
    assert tampered.edit is not None
    pid, start, end = (tampered.edit[name] for name in ("pid", "start", "end"))
    one = map_of(tampered.analysis, int(pid))
    assert row_ranges(one) == guest_ranges(tampered, int(pid))
    (row,) = (row for row in one.rows if row.start == start)
    assert row.cells["maple tree"].state == "missing"
    assert row.cells["slab"].state == "held"
    assert all(other.cells["maple tree"].state == "held" for other in one.rows if other is not row)
    (slot,) = (node for node in one.nodes if node.kind == "empty slot")
    assert (slot.start, slot.end) == (start, end)
    assert slot.wrong
    assert not any(node.wrong for node in one.nodes if node is not slot)
    drawn(one)


@pytest.mark.parametrize("edit", [maple_parent_junk, maple_dead_node], ids=lambda edit: edit.__name__)
def test_the_node_that_was_edited_is_the_one_that_is_wrong(maple_sample: Sample, edit: Callable[[Edit], Label]) -> None:
    analysis, label, copy = edited(maple_sample, edit)
    clean = maple_sample.analysis.views.maple_nodes
    mine = np.flatnonzero((clean.mm == np.uint64(mm_of(maple_sample.analysis, label.pid))) & (clean.parent >= 0))
    changed = [row for row in mine if copy.get(int(clean.address[row])) != clean.parent_word[row]]
    written = {hex(int(clean.address[row])) for row in changed}
    one = map_of(analysis, label.pid)
    assert {node.address for node in one.nodes if node.wrong} == written
    # The way there: each is the child of the one above it, from the tree down.
    by_address = {node.address: node for node in one.nodes}
    (way,) = written
    steps = 0
    while (above := by_address[way].parent) is not None:
        way, steps = above, steps + 1
    assert steps >= 2
    assert by_address[way].kind == "maple_tree"
    drawn(one)


def test_a_tree_without_a_root_is_still_a_picture(maple_sample: Sample) -> None:
    analysis, label, _ = edited(maple_sample, maple_root_emptied)
    one = map_of(analysis, label.pid)
    assert [(node.kind, node.entries) for node in one.nodes] == [("maple_tree", 0)]
    assert one.rows  # the slab still knows the VMAs
    assert all(row.cells["maple tree"].state == "missing" for row in one.rows)


@pytest.mark.parametrize("edit", [list_only, tree_only, list_cycle], ids=lambda edit: edit.__name__)
def test_lists_and_red_black_trees_are_drawn_around_the_edit(
    list_sample: Sample, edit: Callable[[Edit], Label]
) -> None:
    analysis, label, _ = edited(list_sample, edit)
    one = map_of(analysis, label.pid)
    drawn(one)
    spans = [(int(node.start, 16), int(node.end, 16)) for node in one.nodes]
    assert one.nodes
    assert any(start <= label.end and label.start <= end for start, end in spans)
    if edit is list_cycle:
        assert one.index == "vm_next list"
        assert [node.start for node in one.nodes if node.wrong] == [hex(label.start)]
    assert set(spans) <= set(guest_ranges(list_sample, label.pid))


def test_pids_choose_the_maps(either_sample: Sample) -> None:
    truth = either_sample.truth
    pid = next(pid for pid in truth.pids() if pid not in (1, truth.capturing) and truth.get(f"proc/{pid}/maps"))
    (one,) = build_document(either_sample.analysis, pids=[pid]).maps
    assert one.pid == pid
    assert row_ranges(one) == guest_ranges(either_sample, pid)
    assert one.nodes
    drawn(one)


def finding(mm: int, pid: int, start: int, end: int) -> Finding:
    return Finding(
        rule=RULE,
        severity=Severity.HIGH,
        confidence=Confidence.HIGH,
        mm=mm,
        pid=pid,
        comm=b"x",
        title="x",
        evidence=(Evidence(what="x", view="maple tree", address=mm),),
        start=start,
        end=end,
    )


def test_many_findings_give_a_bounded_number_of_maps_and_say_so(either_sample: Sample) -> None:
    analysis = either_sample.analysis
    rows = analysis.views.mms
    many = [finding(mm, pid, 0, 4096) for mm, pid in zip(rows.mm.tolist(), rows.pid.tolist(), strict=True)]
    document = build_document(replace(analysis, findings=many))
    assert [memory_map.mm for memory_map in document.maps] == [one.mm for one in document.findings[:MOST]]
    named = {one.mm for one in document.findings} - {"0x0"}  # of one rule a few are told, the last counts the rest
    assert document.maps_left_out == len(named) - MOST > 0


def test_a_long_map_is_told_around_the_finding_and_says_how_much_is_left_out(either_sample: Sample) -> None:
    """The guest's process with most VMAs has more than a map may have rows."""
    analysis, truth = either_sample.analysis, either_sample.truth
    pid = max(truth.pids(), key=lambda pid: truth.get(f"proc/{pid}/maps", b"").count(b"\n"))
    lines = guest_ranges(either_sample, pid)
    assert len(lines) > MOST_ROWS
    start, end = lines[len(lines) // 2]
    (one,), _ = memory_maps(analysis.kernel, analysis.views, [finding(mm_of(analysis, pid), pid, start, end)])
    assert len(one.rows) == MOST_ROWS
    assert one.rows_left_out == len(lines) - MOST_ROWS
    first = len(lines) // 2 - MOST_ROWS // 2
    assert set(lines[first + 1 : first + MOST_ROWS]) <= set(row_ranges(one))


# An address space that no listed process has ------------------------------------------------------------------


def test_a_process_on_no_list_has_a_side_by_side_by_pid_and_by_mm(either_sample: Sample) -> None:
    analysis, label, _ = edited(either_sample, task_off_both)
    mm = mm_of(either_sample.analysis, label.pid)
    expected = [
        (row.start, row.end, row.vma)
        for row in records_of_process(either_sample.analysis.views, label.pid).document().rows
    ]
    assert label.pid not in analysis.views.tasks.tgid
    assert mm_of_pid(analysis.views, label.pid) == mm
    for document in (
        records_of_process(analysis.views, label.pid).document(),
        records_of_mm(analysis.views, mm).document(),
    ):
        assert [(row.start, row.end, row.vma) for row in document.rows] == expected
        assert (document.pid, document.mm) == (label.pid, hex(mm))


def test_an_mm_that_nothing_knows_is_refused(either_sample: Sample) -> None:
    with pytest.raises(UsageError, match="knows of an mm_struct in use at 0xffff800000001234"):
        records_of_mm(either_sample.analysis.views, 0xFFFF_8000_0000_1234)


@pytest.mark.parametrize("verb", ["views", "pages"])
def test_the_verbs_take_an_mm_instead_of_a_pid(verb: str, tampered: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    assert tampered.edit is not None
    pid, mm = int(tampered.edit["pid"]), mm_of(tampered.analysis, int(tampered.edit["pid"]))
    texts = []
    for whose in (["--pid", str(pid)], ["--mm", hex(mm)]):
        assert main([verb, str(tampered.image_path), *whose]) == ExitCode.OK
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    with pytest.raises(SystemExit):
        main([verb, str(tampered.image_path), "--pid", str(pid), "--mm", hex(mm)])


def test_a_map_survives_whatever_stands_in_the_tree(maple_sample: Sample) -> None:
    """Every word of a leaf set to each of a few hostile values, one after the other."""
    clean = maple_sample.analysis
    nodes = clean.views.maple_nodes
    leaf = int(np.flatnonzero(nodes.leaf & (nodes.parent >= 0))[0])
    for value in ((1 << 64) - 1, 0x406, int(nodes.address[leaf]) | 0x0C, 1):
        edit = Edit(clean)
        for word in range(0, 256, 8):
            edit.put(int(nodes.address[leaf]) + word, value)
        found = again_from_views(clean, edit.overlay)
        document = build_document(found)
        assert any(memory_map.mm == hex(int(nodes.mm[leaf])) for memory_map in document.maps)
        for memory_map in document.maps:
            drawn(memory_map)
