from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from support import Edit, again_from_views
from tamper.page_edits import (
    exec_cleared_in_pte,
    ghost_huge_page,
    ghost_page,
    pte_made_executable,
    pte_pointed_elsewhere,
    pte_to_slab,
)

from vmaforensics.arch.page_tables import PteState
from vmaforensics.checks.pages.page_marks import Mark, entry_marks, mark_texts
from vmaforensics.cli.main import main
from vmaforensics.columns.texts import Texts
from vmaforensics.compare.ranges import entries_within, mm_of, range_at
from vmaforensics.errors import ExitCode, UsageError
from vmaforensics.report.document.page_entries import PageRun, page_runs
from vmaforensics.report.formats.page_runs import render_csv, render_text
from vmaforensics.views.pages.page_names import Owner, owners
from vmaforensics.views.views import Views

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support import Sample
    from tamper.edits import Label

    from vmaforensics.analysis import Analysis


def runs_of(analysis: Analysis, pid: int, at: int | None = None, *, each: bool = False) -> list[PageRun]:
    views = analysis.views
    mm = mm_of(views, pid)
    bounds = (0, 1 << 64) if at is None else range_at(views, mm, at)
    return list(page_runs(analysis.kernel, views, entries_within(views, mm, *bounds), each=each))


def user_pids(analysis: Analysis) -> list[int]:
    pids: list[int] = analysis.views.mms.pid.tolist()
    return pids


def _within(one: PageRun, other: PageRun) -> bool:
    return one.vma == other.vma and int(other.start, 16) <= int(one.start, 16) < int(other.end, 16)


def a_run(**changes: object) -> PageRun:
    plain = PageRun(
        start="0x1000",
        end="0x2000",
        pages=1,
        entry="0x25",
        state="present",
        level=1,
        pfn="0x1",
        consecutive=True,
        swap=None,
        perms="r--",
        owner="file",
        mapping="0x1",
        index="0x0",
        mapcount=1,
        flags=("lru",),
        vma="0x1",
        area="1000-2000 r--p name",
        marks=(),
    )
    return msgspec.structs.replace(plain, **changes)


def test_no_entry_of_a_clean_image_disagrees_with_its_vma(any_kernel: Sample) -> None:
    views = any_kernel.analysis.views
    assert views.page_tables is not None
    assert not entry_marks(views, views.page_tables.ptes).any()


def test_every_entry_is_in_just_one_run(sample: Sample) -> None:
    views = sample.analysis.views
    assert views.page_tables is not None
    for pid in user_pids(sample.analysis):
        runs, single = runs_of(sample.analysis, pid), runs_of(sample.analysis, pid, each=True)
        assert len(single) == len(entries_within(views, mm_of(views, pid), 0, 1 << 64))
        assert sum(run.pages for run in runs) == sum(run.pages for run in single)
        assert {run.start for run in runs} <= {run.start for run in single}
        assert all(int(run.end, 16) - int(run.start, 16) == run.pages << 12 for run in runs)


def test_owners_of_every_sort_are_told(sample: Sample) -> None:
    views = sample.analysis.views
    assert views.page_tables is not None
    view = views.page_tables
    found = {Owner(one).label for one in np.unique(owners(sample.analysis.kernel, view.ptes, view.pages)).tolist()}
    assert found >= {"-", "zero page", "raw frame", "hugetlb", "KSM", "anonymous", "shmem", "file", "kernel"}
    assert not found & {"unknown", "slab or table"}


def test_swapped_pages_show_where_they_went(sample: Sample) -> None:
    swapped = [run for pid in user_pids(sample.analysis) for run in runs_of(sample.analysis, pid) if run.swap]
    assert swapped
    assert all(run.state == "swap" and run.pfn is None and str(run.swap).startswith("0:0x") for run in swapped)
    single = [run for pid in user_pids(sample.analysis) for run in runs_of(sample.analysis, pid, each=True) if run.swap]
    assert sum(run.pages for run in swapped) == len(single)
    assert len({run.swap for run in single}) == len(single)
    for run in swapped:
        if run.consecutive:
            places = {int(each.swap.split(":")[1], 16) for each in single if each.swap and _within(each, run)}
            assert max(places) - min(places) == run.pages - 1


@pytest.mark.parametrize(
    ("edit", "mark"),
    [
        (ghost_page, "in no area"),
        (ghost_huge_page, "in no area"),
        (pte_made_executable, "executable, its area is not"),
        (exec_cleared_in_pte, "not executable, its area is"),
        (pte_to_slab, "kernel memory"),
        (pte_pointed_elsewhere, "page of another anon_vma"),
    ],
)
def test_an_edited_entry_is_marked_and_no_other(
    either_sample: Sample, edit: Callable[[Edit], Label], mark: str
) -> None:
    copy = Edit(either_sample.analysis)
    label = edit(copy)
    found = again_from_views(either_sample.analysis, copy.overlay)
    marked = [run for run in runs_of(found, label.pid) if run.marks]
    assert [(run.start, run.marks) for run in marked] == [(hex(label.start), (mark,))]
    around = runs_of(found, label.pid, label.start)
    assert [run for run in around if run.marks] == marked
    text = "".join(render_text(around))
    assert f"  ^ {mark}\n" in text


def test_each_mark_has_words() -> None:
    assert mark_texts((1 << len(Mark)) - 1) == tuple(mark.short for mark in Mark)
    assert mark_texts(0) == ()


def test_hostile_names_reach_neither_terminal_nor_spreadsheet(sample: Sample) -> None:
    views = sample.analysis.views
    fields = {field.name: getattr(views, field.name) for field in dataclasses.fields(Views)}
    hostile = Views(**fields | {"names": Texts.of([b"\x1b[2J\n=cmd|'/c calc'!A1\xe2\x80\xae"] * len(views.names))})
    mm = mm_of(hostile, 1)
    runs = list(page_runs(sample.analysis.kernel, hostile, entries_within(hostile, mm, 0, 1 << 64)))
    text = "".join(render_text(runs))
    assert text.replace("\n", "").isprintable()
    assert r"\x1b[2J\x0a=cmd" in text
    assert "".join(render_csv(runs)).replace("\r\n", "").isprintable()


@pytest.mark.parametrize("lead", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_csv_can_be_a_formula(lead: str) -> None:
    table = list(csv.reader(render_csv([a_run(area=f"{lead}1+1", flags=(f"{lead}x",), perms="---")])))
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in table for cell in row)
    assert any(f"'{lead}1+1" == cell for cell in table[1])


def test_an_address_that_nothing_knows_is_wrong_usage(sample: Sample) -> None:
    for at in (0x10, 1 << 63, (1 << 64) - 1):
        with pytest.raises(UsageError, match="neither a VMA nor a page-table entry"):
            runs_of(sample.analysis, 1, at)
    with pytest.raises(UsageError, match="no process"):
        runs_of(sample.analysis, 999_999)
    with pytest.raises(UsageError, match="kernel thread"):
        runs_of(sample.analysis, 2)


def test_absent_views_give_no_rows(sample: Sample) -> None:
    views = sample.analysis.views
    assert list(page_runs(sample.analysis.kernel, views, range(0))) == []
    assert views.page_tables is not None
    assert set(np.unique(views.page_tables.ptes.state).tolist()) <= set(PteState)


def test_the_three_formats_hold_the_same(either_sample: Sample, tmp_path: Path) -> None:
    image = str(either_sample.image_path)
    outputs = {}
    for form in ("json", "csv", "text"):
        outputs[form] = tmp_path / form
        assert main(["pages", image, "--pid", "1", "--format", form, "-o", str(outputs[form])]) == ExitCode.OK
    document = json.loads(outputs["json"].read_bytes())
    table = list(csv.DictReader(io.StringIO(outputs["csv"].read_text())))
    assert [one["start"] for one in document["runs"]] == [row["start"] for row in table]
    assert document["pid"] == 1
    text = outputs["text"].read_text()
    for one in document["runs"]:
        assert f" {one['start'][2:]} " in text
        assert f"VMA {one['area']}" in text
