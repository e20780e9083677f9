from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from support import Edit, again_from_views, leader
from tamper.page_edits import ghost_page
from tamper.tree_edits import bounds_of_neighbour, list_and_tree, maple_erased

from vmaforensics.cli.main import main
from vmaforensics.compare.details import details_at
from vmaforensics.compare.records import records_of_process
from vmaforensics.compare.records_text import render
from vmaforensics.errors import ExitCode, UsageError, VmaForensicsError
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Sample
    from tamper.edits import Label

    from vmaforensics.analysis import Analysis
    from vmaforensics.compare.records_document import RecordsDocument, Row


def a_process(analysis: Analysis) -> int:
    """The process with most VMAs."""
    rows = next(iter(analysis.views.indices().values()))
    mm, count = np.unique(rows.mm, return_counts=True)
    row = analysis.views.mm_rows(mm[count.argmax() : count.argmax() + 1])[0]
    return int(analysis.views.mms.pid[row])


def detailed(analysis: Analysis, pid: int, at: int) -> RecordsDocument:
    records = records_of_process(analysis.views, pid)
    details = details_at(analysis.kernel, analysis.views, records, at)
    return msgspec.structs.replace(records.document(), at=hex(at), details=details)


def row_of(document: RecordsDocument, start: int) -> Row:
    (found,) = (row for row in document.rows if int(row.start, 16) == start)
    return found


def edited(sample: Sample, edit: Callable[[Edit], Label]) -> tuple[Analysis, Label]:
    copy = Edit(sample.analysis)
    try:
        label = edit(copy)
    except (AssertionError, VmaForensicsError):
        pytest.skip("this image has nothing that the edit could be made on")
    return again_from_views(sample.analysis, copy.overlay), label


def test_the_rows_of_a_process_are_the_lines_of_its_maps(sample: Sample) -> None:
    for pid in sample.truth.pids():
        if pid == sample.truth.capturing or not sample.truth.get(f"proc/{pid}/maps"):
            continue
        document = records_of_process(sample.analysis.views, pid).document()
        lines = sample.truth[f"proc/{pid}/maps"].decode("latin-1").split("\n")[:-1]
        lines = [line for line in lines if "[vsyscall]" not in line]
        shown = [f"{int(row.start, 16):08x}-{int(row.end, 16):08x} {row.perms}" for row in document.rows]
        assert shown == [" ".join(line.split()[:2]) for line in lines]


def test_no_record_of_a_clean_kernel_lacks_a_region(sample: Sample) -> None:
    views = sample.analysis.views
    for pid in np.unique(views.mms.pid).tolist():
        document = records_of_process(views, pid).document()
        missing = [
            (row.start, view) for row in document.rows for view, cell in row.cells.items() if cell.state == "missing"
        ]
        assert missing == []
        assert all(set(row.cells) == set(document.views) for row in document.rows)


def test_there_is_a_column_for_each_index_of_the_kernel(either_sample: Sample) -> None:
    document = records_of_process(either_sample.analysis.views, a_process(either_sample.analysis)).document()
    indices = [view.label for view in either_sample.analysis.views.indices()]
    assert document.views[: len(indices)] == indices
    for row in document.rows:
        assert all(int(row.cells[name].address or "0", 16) >= 1 << 63 for name in indices)


def test_a_hidden_vma_has_a_row_from_what_still_knows_it(maple_sample: Sample) -> None:
    found, label = edited(maple_sample, lambda copy: maple_erased(copy, repaired=True))
    document = records_of_process(found.views, label.pid).document()
    row = row_of(document, label.start)
    assert row.end == hex(label.end)
    assert row.cells[View.MAPLE.label].state == "missing"
    assert row.cells[View.SLAB.label].state == "held"
    assert row.cells[View.FILE_RMAP.label].state == "held"
    assert row.name == row_of(records_of_process(maple_sample.analysis.views, label.pid).document(), label.start).name
    (line,) = (line for line in render(document).splitlines() if f"{label.start:x}-" in line)
    assert line.startswith(">")
    assert " no " in line


def test_a_vma_out_of_list_and_tree_says_no_in_both(list_sample: Sample) -> None:
    found, label = edited(list_sample, lambda copy: list_and_tree(copy, repaired=True))
    row = row_of(records_of_process(found.views, label.pid).document(), label.start)
    assert [row.cells[view.label].state for view in (View.LIST, View.RBTREE)] == ["missing", "missing"]
    document = detailed(found, label.pid, label.start)
    told = [step for step in document.details[0].chain if step.facts.get("", "").startswith("has no record")]
    assert [step.record for step in told] == [View.LIST.label, View.RBTREE.label]


def test_an_index_range_other_than_the_bounds_is_told(maple_sample: Sample) -> None:
    found, label = edited(maple_sample, bounds_of_neighbour)
    document = detailed(found, label.pid, label.start)
    (one,) = document.details
    row = next(row for row in document.rows if row.vma == one.vma)
    assert row.cells[View.MAPLE.label].note == f"as {label.start:x}-{label.end:x}"


def test_memory_in_no_vma_has_a_row_of_its_own(sample: Sample) -> None:
    found, label = edited(sample, ghost_page)
    document = detailed(found, label.pid, label.start)
    row = row_of(document, label.start)
    assert row.vma is None
    assert row.cells[View.PAGE_TABLES.label].note == "1 page"
    assert {row.cells[view.label].state for view in found.views.indices()} == {"missing"}
    assert document.details[0].members == []
    entries = [step for step in document.details[0].chain if step.record.startswith("entry")]
    assert [step.facts["va"] for step in entries] == [hex(label.start)]


def test_a_vma_is_decoded_by_the_kernels_own_types(sample: Sample) -> None:
    pid = a_process(sample.analysis)
    row = next(row for row in records_of_process(sample.analysis.views, pid).document().rows if row.perms == "r-xp")
    for at in (int(row.start, 16), int(row.end, 16) - 1, int(row.vma or "0", 16)):
        document = detailed(sample.analysis, pid, at)
        (one,) = document.details
        members = {member.name: member for member in one.members}
        assert (members["vm_start"].value, members["vm_end"].value) == (row.start, row.end)
        assert members["vm_mm"].value == document.mm
        assert members["vm_flags"].meaning.startswith("VM_READ VM_EXEC VM_MAYREAD")
        assert "bit" not in members["vm_flags"].meaning
        assert members["vm_file"].meaning == "struct file"
        known = sample.analysis.kernel.types.struct("vm_area_struct")
        assert known is not None
        assert {name.split(".")[0] for name in members} == set(known.fields)


def test_the_way_leads_from_the_task_to_the_pages(sample: Sample) -> None:
    pid = a_process(sample.analysis)
    rows = records_of_process(sample.analysis.views, pid).document().rows
    row = next(row for row in rows if row.perms == "r-xp" and row.cells[View.PAGE_TABLES.label].state == "held")
    document = detailed(sample.analysis, pid, int(row.start, 16))
    chain = document.details[0].chain
    records = [step.record for step in chain]
    assert records[:2] == ["task_struct", "mm_struct"]
    assert [chain[0].address, chain[1].address] == [document.task, document.mm]
    if sample.analysis.views.maple is not None:
        nodes = [step for step in chain if step.record.startswith("maple_node")]
        assert nodes[-1].facts["holds"] == row.vma
        assert nodes[-1].facts["pivots"] == f"{row.start}-{int(row.end, 16) - 1:#x}"
        assert "leaf_64" in nodes[-1].record
    else:
        nodes = [step for step in chain if step.record == "rb_node"]
        assert str(row.vma) in nodes[-1].facts["area"]
    for record in ("vm_area_struct", "file", "inode", "address_space", "i_mmap node", "entry (4 KiB)"):
        assert record in records
    text = render(document)
    assert all(step.address is None or step.address in text for step in chain)


def test_an_address_in_no_region_is_answered(maple_sample: Sample) -> None:
    document = detailed(maple_sample.analysis, a_process(maple_sample.analysis), 0x1000)
    assert document.details == []
    assert "No record of this process covers 0x1000." in render(document)


def test_names_of_the_image_cannot_act_on_a_terminal(maple_sample: Sample) -> None:
    copy = Edit(maple_sample.analysis)
    pid = a_process(maple_sample.analysis)
    comm = copy.at("task_struct", int(leader(maple_sample.analysis, pid).task), "comm")
    copy.put(comm, int.from_bytes(b"\x1b[2J\n\xff\t|", "little"))
    changed = again_from_views(maple_sample.analysis, copy.overlay)
    text = render(records_of_process(changed.views, pid).document())
    assert "\\x1b[2J\\x0a" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_the_command_writes_text_and_json(sample: Sample, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    pid, path = a_process(sample.analysis), str(sample.image_path)
    assert main(["views", path, "--pid", str(pid), "--format", "json"]) == ExitCode.OK
    saved = json.loads(capfdbinary.readouterr().out)
    assert (saved["schema"]["name"], saved["pid"]) == ("vmaforensics-views", pid)
    assert len(saved["rows"]) == len(records_of_process(sample.analysis.views, pid).document().rows)
    start = saved["rows"][0]["start"]
    assert main(["views", path, "--pid", str(pid), "--at", start]) == ExitCode.OK
    text = capfdbinary.readouterr().out.decode()
    assert f"vm_area_struct at {saved['rows'][0]['vma']}" in text


def test_a_process_without_a_memory_map_is_told_so(sample: Sample) -> None:
    tasks = sample.analysis.views.tasks
    thread = int(tasks.pid[(tasks.flags & np.uint32(0x00200000)) != 0][0])
    with pytest.raises(UsageError, match="kernel thread"):
        records_of_process(sample.analysis.views, thread).document()
    with pytest.raises(UsageError, match="no process"):
        records_of_process(sample.analysis.views, 1 << 30).document()


@pytest.mark.parametrize("text", ["zz", "-1", "1" * 17])
def test_what_is_no_address_is_wrong_usage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["views", "nothing", "--pid", "1", f"--at={text}"])
    assert stop.value.code == ExitCode.USAGE
    assert "is not a hexadecimal address" in capsys.readouterr().err
