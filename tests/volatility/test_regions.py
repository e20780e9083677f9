"""The union of views, on tables made by hand: disagreement, unreadable VMAs, shared address spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pytest

pytest.importorskip("volatility3")

from volatility3.framework import renderers

from vmaforensics.columns.texts import Texts
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.problems import Problem, Problems
from vmaforensics.views.processes.mms import Mms
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.view import View
from vmaforensics.views.views import Views
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.views.vmas.vmas import Vmas
from vmaforensics.volatility.rows.regions import COLUMNS, region_rows, summary
from vmaforensics.volatility.rows.session import grid

if TYPE_CHECKING:
    from vmaforensics.columns.table import Table

_T = TypeVar("_T", bound="Table")
MM, OTHER, EMPTY = 0xFFFF888000001000, 0xFFFF888000002000, 0xFFFF888000003000
A, B, LOST = 0xFFFF888000010000, 0xFFFF888000010100, 0xFFFF888000010200


def rows_as(table: type[_T], *rows: dict[str, Any]) -> _T:
    """A table of the rows given by column; what a row does not name is 0."""
    named = {name: None for row in rows for name in row}
    return table.of(**{name: [row.get(name, 0) for row in rows] for name in named})


def region(mm: int, vma: int, start: int, end: int) -> dict[str, int]:
    return {"mm": mm, "vma": vma, "start": start, "end": end, "vma_row": (A, B, LOST).index(vma)}


def task(pid: int, comm: bytes, mm: int, *, leader: bool = True, tgid: int = 0) -> dict[str, Any]:
    return {"task": pid, "pid": pid, "tgid": tgid or pid, "comm": comm, "mm": mm, "leader": leader, "ok": True}


def views() -> Views:
    """An old kernel: B is missing in the tree, LOST cannot be read, 3 shares 2's mm, 4's is empty."""
    return Views(
        tasks=rows_as(
            Tasks,
            task(1, b"bad\x1b[2J\n", MM),
            task(2, b"kept", OTHER),
            task(3, b"sharer", OTHER),
            task(4, b"bare", EMPTY),
            task(5, b"zombie", 0),
            task(6, b"thread", MM, leader=False, tgid=5),
        ),
        mms=rows_as(Mms, *({"mm": mm, "ok": True} for mm in (MM, OTHER, EMPTY))),
        vma_list=rows_as(IndexEntries, region(MM, A, 0x1000, 0x2000), region(MM, B, 0x2000, 0x3000)),
        rbtree=rows_as(IndexEntries, region(MM, A, 0x1000, 0x2000), region(OTHER, LOST, 0, 0)),
        vmas=rows_as(
            Vmas,
            {
                "vma": A,
                "ok": True,
                "start": 0x1000,
                "end": 0x2000,
                "mm": MM,
                "flags": 5,
                "pgoff": 7,
                "file": 1,
                "kind": Kind.FILE,
            },
            {
                "vma": B,
                "ok": True,
                "start": 0x2000,
                "end": 0x3000,
                "mm": OTHER,
                "flags": 3,
                "pgoff": 9,
                "kind": Kind.ANONYMOUS,
            },
            {"vma": LOST},
        ),
        names=Texts.of([b"/bin/\xff\xe2\x80\xae", b"", b""]),
    )


def rows(*pids: int) -> list[dict[str, Any]]:
    names = [name for name, _ in COLUMNS]
    return [dict(zip(names, row, strict=True)) for row in region_rows(views(), pids)]


def test_each_view_says_for_itself_whether_it_has_the_region() -> None:
    both, listed = rows(1)
    assert (both["In list"], both["In rbtree"], both["VMA agrees"]) == (True, True, True)
    assert (listed["In list"], listed["In rbtree"], listed["VMA agrees"]) == (True, False, False)
    assert isinstance(both["In maple"], renderers.NotApplicableValue)
    assert (both["Start"], both["End"], both["Flags"], both["PgOff"]) == (0x1000, 0x2000, "r-xp", 0x7000)
    assert listed["PgOff"] == 0  # anonymous: as in /proc/PID/maps
    assert isinstance(listed["File Path"], renderers.NotApplicableValue)


def test_strings_of_the_dump_are_made_harmless() -> None:
    row = rows(1)[0]
    assert row["Process"] == "bad\\x1b[2J\\x0a"
    assert row["File Path"] == "/bin/\\xff\\u202e"


def test_an_unreadable_vma_is_a_row_with_what_is_known() -> None:
    (row,) = rows(2)
    assert (row["VMA"], row["In list"], row["In rbtree"]) == (LOST, False, True)
    for name in ("Start", "End", "Flags", "PgOff", "Kind", "VMA agrees", "File Path"):
        assert isinstance(row[name], renderers.UnreadableValue), name


def test_processes_that_share_an_mm_are_both_listed() -> None:
    assert [(row["PID"], row["Process"], row["VMA"]) for row in rows(2, 3)] == [
        (2, "kept", LOST),
        (3, "sharer", LOST),
    ]


def test_a_process_whose_leader_is_gone_is_listed_by_its_threads() -> None:
    assert [(row["Process"], row["VMA"]) for row in rows(5)] == [("zombie", A), ("zombie", B)]


def test_a_process_without_any_readable_region_is_a_row() -> None:
    (row,) = rows(4)
    assert row["Process"] == "bare"
    assert isinstance(row["Start"], renderers.UnreadableValue)
    assert isinstance(row["In list"], renderers.UnreadableValue)
    assert isinstance(row["In maple"], renderers.NotApplicableValue)


def test_an_index_that_says_another_range_does_not_have_the_region() -> None:
    old = views()
    new = Views(
        tasks=old.tasks,
        mms=old.mms,
        vmas=old.vmas,
        names=old.names,
        maple=rows_as(IndexEntries, region(MM, A, 0x1000, 0x1800)),
    )
    (row,) = region_rows(new, [1])
    values = dict(zip((name for name, _ in COLUMNS), row, strict=True))
    assert (values["End"], values["In maple"], values["VMA agrees"]) == (0x2000, False, False)


def test_a_view_that_could_not_be_read_whole_is_not_said_to_lack_anything() -> None:
    some = views()
    some.problems = rows_as(Problems, {"view": View.RBTREE, "problem": Problem.UNREADABLE, "mm": MM})
    listed = [dict(zip((name for name, _ in COLUMNS), row, strict=True)) for row in region_rows(some, [1])][1]
    assert (listed["In list"], listed["VMA"]) == (True, B)
    assert isinstance(listed["In rbtree"], renderers.UnreadableValue)


def test_every_value_is_of_its_columns_type() -> None:
    tree = renderers.TreeGrid(COLUMNS, grid(region_rows(views())))
    tree.populate()
    assert tree.row_count == len(rows())


def test_no_process_no_rows() -> None:
    empty = Views(tasks=Tasks.zeros(0), mms=Mms.zeros(0))
    assert list(region_rows(empty)) == []


def test_problems_are_summed_up_by_view_and_kind() -> None:
    some = views()
    some.problems = rows_as(
        Problems,
        {"view": View.RBTREE, "problem": Problem.CYCLE, "mm": MM, "where": 0x10, "value": 0x20},
        {"view": View.RBTREE, "problem": Problem.CYCLE, "mm": OTHER, "where": 0x30, "value": 0x40},
    )
    (line,) = summary(some)
    assert "in 2 places of 2 address spaces" in line
    assert "0x10" in line


def test_an_error_ends_the_rows_and_keeps_those_before(caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> Any:  # noqa: ANN401
        yield (1,)
        raise ZeroDivisionError("\x1b[31m")

    assert list(grid(failing())) == [(0, (1,))]
    assert "bug" in caplog.text
    assert "\x1b" not in caplog.text
