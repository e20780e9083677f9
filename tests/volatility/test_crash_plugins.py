"""``linux.vmacrash`` and ``linux.vmastacks``: rows of a case made by hand, and the real ``vol`` on dead guests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade_stacks import USER, Rule, Stacks

from vmaforensics.cli.main import main
from vmaforensics.crash.stack_parts import CaseStacks
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.volatility.rows.case import COLUMNS as CASE_COLUMNS
from vmaforensics.volatility.rows.stacks import COLUMNS, stack_rows

from .conftest import ROOT, Vol, parse

if TYPE_CHECKING:
    from vmaforensics.volatility.rows.regions import Row

CRASHED = ROOT / "samples/debian-6.1-crash/image.kdump"
HUNG = ROOT / "build/images/debian-6.1-deadlock.elf"
UNINTERRUPTIBLE = 2


def a_case() -> CaseStacks:
    """Task 1 sleeps, task 2 sleeps and cannot be woken, task 3 is dead."""
    stacks = Stacks()
    for number in range(4):  # the form of unwind data shows by what most functions have
        stacks.function(f"ordinary{number}", Rule(sp_offset=8))
    for _ in range(2):
        stacks.task(stacks.code("schedule"), stacks.code("entry_SYSCALL_64"), *USER)
    stacks.add(0, 0)
    tasks = Tasks.of(
        task=np.array(stacks.tasks, np.uint64),
        pid=[1, 2, 3],
        tgid=[1, 2, 2],
        comm=[b"one", b"two\x1b[0m", b"three"],
        state=[1, UNINTERRUPTIBLE, 128],
        ok=[True] * 3,
    )
    return CaseStacks(view=stacks.view(), tasks=tasks)


def named(rows: list[Row]) -> list[dict[str, object]]:
    return [dict(zip((name for name, _ in COLUMNS), row, strict=True)) for row in rows]


def test_by_default_those_who_cannot_be_woken() -> None:
    rows = named(list(stack_rows(a_case())))
    assert {row["PID"] for row in rows} == {2}
    assert [row["Frame"] for row in rows] == [0, 1]
    assert str(rows[0]["Function"]).startswith("schedule+0x40/")
    assert "\x1b" not in str(rows[0]["Process"])


def test_all_threads_of_a_process_and_why_a_stack_ends() -> None:
    rows = named(list(stack_rows(a_case(), pids=[2])))
    assert [row["TID"] for row in rows] == [2, 2, 3]
    assert "dead" in str(rows[-1]["Function"])
    assert {row["TID"] for row in named(list(stack_rows(a_case(), everyone=True)))} == {1, 2, 3}


def test_a_pid_that_is_not_there_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert list(stack_rows(a_case(), pids=[77])) == []
    assert "pid 77" in caplog.text


@pytest.mark.skipif(not CRASHED.exists(), reason="the sample is not there")
def test_vol_says_that_the_kernel_crashed(vol: Vol) -> None:
    rows = json.loads(vol(CRASHED, "linux.vmacrash.VmaCrash").stdout)
    assert {name for name, _ in CASE_COLUMNS} == rows[0].keys() - {"__children"}
    assert rows[0]["Record"] == "verdict"
    assert rows[0]["Text"].startswith("This kernel crashed")
    assert "death" in {row["Record"] for row in rows}


@pytest.mark.skipif(not CRASHED.exists(), reason="the sample is not there")
def test_vol_lists_stacks(vol: Vol) -> None:
    rows = parse("json", vol(CRASHED, "linux.vmastacks.VmaStacks", "--all").stdout)
    assert len({row["TID"] for row in rows}) > 40


@pytest.mark.skipif(not HUNG.exists(), reason="the recipe's guest has not been made")
def test_vol_says_what_the_verb_says_of_a_deadlock(vol: Vol, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    rows = json.loads(vol(HUNG, "linux.vmacrash.VmaCrash").stdout)
    (circle,) = [row for row in rows if row["Record"] == "deadlock"]
    assert main(["crash", str(HUNG), "--format", "json"]) == 0
    (edges,) = json.loads(capfdbinary.readouterr().out)["waits"]["deadlocks"]
    assert [child["PID"] for child in circle["__children"]] == [edge["who"]["pid"] for edge in edges]
    frames = parse("json", vol(HUNG, "linux.vmastacks.VmaStacks", "--pid", str(edges[0]["who"]["pid"])).stdout)
    assert any(row["Function"].startswith("rwsem_down_read_slowpath+") and row["Sure"] for row in frames)
