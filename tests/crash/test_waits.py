"""Who waits for whom, on the page: of the guests that the recipe hung, by their labels, and of parts made by hand."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from support import ROOT

from vmaforensics.cli.main import main
from vmaforensics.crash.document import CrashDocument
from vmaforensics.crash.waits_document import (
    EdgePart,
    LockPart,
    QueuedPart,
    RunQueuePart,
    SleeperPart,
    TaskName,
    WaiterPart,
    WaitsPart,
)
from vmaforensics.crash.waits_text import wait_lines, wait_summary

if TYPE_CHECKING:
    from pathlib import Path

BASH, CAT, DD = (
    TaskName(task=hex(0x1000 * pid), pid=pid, comm=comm) for pid, comm in ((7, "bash"), (8, "cat"), (9, "dd"))
)
UNKNOWN = TaskName(task="0x5000", pid=None, comm=None)


def waiter(who: TaskName, wants: str = "read", seconds: float | None = 3.21) -> WaiterPart:
    return WaiterPart(who=who, wants=wants, seconds=seconds, proof="list", function="m_start", waiter="0x10")


def lock(**changes: object) -> LockPart:
    """The mmap lock of bash, which dd holds and cat waits for."""
    part = LockPart(
        kind="rw_semaphore",
        address="0xabc0",
        name="mmap_lock of pid 7 (bash)",
        held="write",
        owner=DD,
        owner_state="sleeps",
        owner_cpu=None,
        owner_function="do_nanosleep",
        owner_waits_for=None,
        likely=False,
        readers=0,
        last_reader=None,
        handoff=False,
        waiters=[waiter(CAT)],
        count=1,
        locked_vmas=[],
        by_hand=[],
    )
    return msgspec.structs.replace(part, **changes)


def waits(**changes: object) -> WaitsPart:
    part = WaitsPart(deadlocks=[], locks=[], not_found=[], queues=[], longest=[])
    return msgspec.structs.replace(part, **changes)


def text(**changes: object) -> str:
    return " ".join(" ".join(wait_lines(waits(**changes))).split())


def test_a_lock_says_who_holds_it_and_who_waits_since_when() -> None:
    said = text(locks=[lock()])
    assert "mmap_lock of pid 7 (bash) (rw_semaphore 0xabc0): held for writing by pid 9 (dd)" in said
    assert "who sleeps in do_nanosleep" in said
    assert "pid 8 (cat) waits to read in m_start for 3.2 s" in said


def test_readers_are_not_named_as_owners() -> None:
    said = text(locks=[lock(held="read", owner=None, readers=2, last_reader=BASH)])
    assert "held by 2 readers, who are not recorded (the last to take it: pid 7 (bash))" in said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"owner": UNKNOWN}, "held for writing by task 0x5000, which is not known"),
        ({"owner": None}, "held for writing, by whom no word says"),
        ({"held": "unreadable"}, "which is not in the image"),
        ({"held": "free"}, "which is free"),
        ({"kind": "semaphore", "held": "held", "likely": True}, "held likely by pid 9 (dd)"),
        ({"kind": "completion", "held": "held"}, "which pid 9 (dd) completes when it ends"),
        ({"owner_waits_for": "0xdef0"}, "who waits for another, 0xdef0"),
        ({"owner_state": "runs", "owner_cpu": 3}, "who runs on CPU 3"),
        ({"owner_state": "runnable", "owner_cpu": 3}, "who could run and waits for CPU 3"),
        ({"locked_vmas": ["1000-2000 rw-p a", "b"]}, "locked for writing: VMA 1000-2000 rw-p a and 1 more"),
        ({"name": None}, "rw_semaphore 0xabc0: held"),
    ],
)
def test_what_is_said_of_who_holds_it(changes: dict[str, object], expected: str) -> None:
    assert expected in text(locks=[lock(**changes)])


def test_a_deadlock_comes_first_with_all_its_edges() -> None:
    edges = [
        EdgePart(who=who, wants="write", kind="mutex", lock="0x1", name="cgroup_mutex", owner=owner, proof="list")
        for who, owner in ((BASH, CAT), (CAT, BASH))
    ]
    said = text(deadlocks=[edges], locks=[lock()])
    assert said.startswith("DEADLOCK of 2 tasks")
    assert "pid 7 (bash) waits to write for cgroup_mutex, held by pid 8 (cat)" in said
    told = "deadlock of 2 tasks: pid 7 (bash) for mutex 0x1, pid 8 (cat) for mutex 0x1"
    assert wait_summary(waits(deadlocks=[edges])) == told


def test_a_task_that_waits_for_itself() -> None:
    own = EdgePart(who=BASH, wants="read", kind="rw_semaphore", lock="0xabc0", name=None, owner=BASH, proof="list")
    said = text(deadlocks=[[own]], locks=[lock(owner=BASH, owner_waits_for="0xabc0")])
    assert said.startswith("DEADLOCK: a task waits for what it holds itself: pid 7 (bash) waits to read for")
    assert "held for writing by pid 7 (bash), who waits for it" in said


def test_only_cpus_that_somebody_waits_for_are_shown() -> None:
    idle = RunQueuePart(cpu=0, runnable=0, runs=BASH, idle=True, waiting=[])
    busy = RunQueuePart(cpu=1, runnable=2, runs=CAT, idle=False, waiting=[QueuedPart(who=DD, seconds=12.04)])
    said = text(queues=[idle, busy])
    assert said == "CPU 1 runs pid 8 (cat); 1 task behind it: pid 9 (dd) runnable for 12.0 s"


def test_sleepers_are_not_said_twice() -> None:
    sleepers = [SleeperPart(who=who, seconds=2.0, function="folio_wait_bit") for who in (CAT, DD)]
    said = text(locks=[lock()], longest=sleepers)
    assert "pid 9 (dd) for 2.0 s in folio_wait_bit" in said
    assert "pid 8 (cat) for 2.0 s" not in said


def test_many_waiters_are_counted() -> None:
    said = text(locks=[lock(waiters=[waiter(CAT)] * 9, count=1200)])
    assert "and 1,194 more" in said


def test_nobody_waits() -> None:
    assert (text(), wait_summary(waits())) == ("", None)


BLOCKER = re.compile(r"INFO: task .*:(?P<pid>\d+) (<\w+> |is )?blocked on an? .* owned by task .*:(?P<owner>\d+)")


def _hung() -> list[tuple[Path, dict[str, object]]]:
    """Guests whose locks the recipe has held, with their labels."""
    found = []
    for manifest in sorted(ROOT.glob("build/images/*.json")):
        death = json.loads(manifest.read_bytes()).get("death")
        if death is not None and death["way"] in ("hung", "deadlock", "softlockup"):
            found.append((manifest.with_suffix(".elf"), death))
    return found


HUNG = [pytest.param(path, death, id=path.stem) for path, death in _hung() if path.exists()]


@pytest.mark.image
@pytest.mark.skipif(not HUNG, reason="the recipe's hung guests have not been made")
@pytest.mark.parametrize(("path", "death"), HUNG)
def test_locks_and_owners_are_those_that_were_written(
    path: Path, death: dict[str, object], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["crash", str(path), "--format", "json"]) == 0
    found = msgspec.json.decode(capfdbinary.readouterr().out, type=CrashDocument).waits
    assert found is not None
    by_address = {part.address: part for part in found.locks}
    edits = death["edits"]
    assert isinstance(edits, list)
    counts = [edit for edit in edits if edit["what"].endswith(("count", "readers", "arg_lock"))]
    owners = [edit for edit in edits if edit["what"].endswith("owner")]
    assert counts
    for edit in counts:
        assert by_address[edit["address"]].count > 0
    for edit in owners:
        # The owner lies behind the count; with PREEMPT_RT, in the rt_mutex behind the readers.
        rt = "rtmutex" in edit["what"]
        count = counts[owners.index(edit)]["address"]
        part = by_address[count] if rt else by_address[hex(int(edit["address"], 16) - 8)]
        assert part.owner is not None and part.owner.task == edit["after"]
        assert f"crash: struct rw_semaphore {part.address}" in part.by_hand
        assert f"crash: bt {part.owner.task}" in part.by_hand
        assert part.name is not None and part.name.startswith("mmap_lock of pid ")
    assert (len(found.deadlocks) == 1) == (death["way"] == "deadlock")
    # What the kernel itself says, since 6.16 (debug_show_blocker, kernel/hung_task.c).
    owner_of = {waiter.who.pid: part.owner for part in found.locks for waiter in part.waiters}
    console = death["console"]
    assert isinstance(console, list)
    for said in filter(None, (BLOCKER.search(line) for line in console)):
        owner = owner_of[int(said["pid"])]
        assert owner is not None and owner.pid == int(said["owner"])
