"""Auxiliary vectors and signal handlers made by hand."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
from handmade import LINUX, Machine

from vmaforensics.views.anchors.anchors import MmAnchors, read_mm_anchors
from vmaforensics.views.anchors.registers import Threads
from vmaforensics.views.anchors.signals import Handlers, read_handlers
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mms import Mms

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = 4096
AT_NULL, AT_PHDR, AT_BASE, AT_ENTRY, AT_SYSINFO_EHDR = 0, 3, 7, 9, 33
SIG_IGN, SA_RESTORER = 1, 0x04000000
STRUCTS = LINUX | {
    "sigaction": "sa_handler:* sa_flags:u64 sa_restorer:* sa_mask:u64",
    "k_sigaction": "sa:sigaction",
    "sighand_struct": "count:u64 action:k_sigaction[64]",
}


# The auxiliary vector -------------------------------------------------------------------------------


def vector(machine: Machine, *pairs: tuple[int, int], width: str = "Q") -> int:
    """An mm with an auxiliary vector of (type, value) pairs."""
    mm = machine.put("mm_struct")
    words = [word for pair in pairs for word in pair]
    machine.write(machine.at("mm_struct", mm, "saved_auxv"), struct.pack(f"<{len(words)}{width}", *words))
    return mm


def anchors(machine: Machine, *mms: int, task_size: Sequence[int] = ()) -> tuple[MmAnchors, ProblemLog]:
    table = Mms.zeros(len(mms))
    table.mm[:], table.ok[:] = mms, True
    if task_size:
        table.task_size[:] = task_size
    log = ProblemLog()
    return read_mm_anchors(machine.kernel(), table, log), log


def test_entries_of_the_auxiliary_vector_are_taken_by_type() -> None:
    machine = Machine(STRUCTS)
    mm = vector(machine, (AT_SYSINFO_EHDR, 0x7FFF0000), (AT_PHDR, 0x400040), (6, PAGE), (AT_ENTRY, 0x401000))
    rows, _ = anchors(machine, mm)
    assert rows.ok.tolist() == [True]
    assert (rows.sysinfo_ehdr[0], rows.phdr[0], rows.entry[0], rows.base[0]) == (0x7FFF0000, 0x400040, 0x401000, 0)
    assert rows.auxv[0] == machine.at("mm_struct", mm, "saved_auxv")


def test_what_stands_behind_the_end_of_the_vector_is_old() -> None:
    machine = Machine(STRUCTS)
    rows, _ = anchors(machine, vector(machine, (AT_PHDR, 0x400040), (AT_NULL, 0), (AT_ENTRY, 0x401000)))
    assert (rows.phdr[0], rows.entry[0]) == (0x400040, 0)


def test_of_an_entry_that_comes_twice_the_first_counts() -> None:
    machine = Machine(STRUCTS)
    rows, _ = anchors(machine, vector(machine, (AT_BASE, 0x1000), (AT_BASE, 0x2000)))
    assert rows.base.tolist() == [0x1000]


def test_a_vector_without_an_end_is_read_to_the_last_pair() -> None:
    machine = Machine(STRUCTS)
    rows, _ = anchors(machine, vector(machine, *[(1, 1)] * 25, (AT_ENTRY, 0x401000)))
    assert rows.entry.tolist() == [0x401000]


def test_programs_of_32_bits_have_a_vector_of_32_bit_words() -> None:
    machine = Machine(STRUCTS)
    narrow = vector(machine, (AT_PHDR, 0x8048034), (AT_ENTRY, 0x8048100), width="I")
    wide = vector(machine, (AT_PHDR, 0x400040))
    rows, _ = anchors(machine, narrow, wide, task_size=[0xFFFFE000, 0x7FFFFFFFF000])
    assert rows.phdr.tolist() == [0x8048034, 0x400040]
    assert rows.entry.tolist() == [0x8048100, 0]


def test_a_vector_that_is_not_in_the_dump_is_said_to_be_missing() -> None:
    machine = Machine(STRUCTS)
    machine.room(0, PAGE)
    mm = vector(machine, (AT_PHDR, 0x400040))
    machine.drop(mm)
    rows, log = anchors(machine, mm)
    assert (rows.ok.tolist(), rows.phdr.tolist()) == ([False], [0])
    problems = log.table()
    assert problems.problem.tolist() == [Problem.UNREADABLE]
    assert (problems.mm.tolist(), problems.where.tolist()) == ([mm], [machine.at("mm_struct", mm, "saved_auxv")])


# Signal handlers ------------------------------------------------------------------------------------


def sighand(machine: Machine, actions: dict[int, tuple[int, int, int]]) -> int:
    """A sighand_struct with (handler, flags, restorer) by signal."""
    address = machine.put("sighand_struct")
    base = machine.at("sighand_struct", address, "action")
    for signal, words in actions.items():
        for place, word in enumerate(words):
            machine.word(base + 32 * (signal - 1) + 8 * place, word)
    return address


def handlers(machine: Machine, *sighands: int) -> tuple[Handlers, ProblemLog, list[int]]:
    """The handlers of a thread for each of ``sighands``; mm 1, 2, … Also the tasks."""
    tasks = [machine.put("task_struct", {"sighand": at}) for at in sighands]
    log = ProblemLog()
    rows = read_handlers(machine.kernel(), Threads.of(task=tasks, mm=range(1, len(tasks) + 1)), log)
    return rows, log, tasks


def test_handlers_are_functions_of_the_program_alone() -> None:
    machine = Machine(STRUCTS)
    at = sighand(machine, {1: (0x401000, SA_RESTORER, 0x7000), 2: (SIG_IGN, 0, 0), 64: (0x402000, 0, 0x7000)})
    rows, _, tasks = handlers(machine, at)
    assert rows.signal.tolist() == [1, 64]
    assert rows.handler.tolist() == [0x401000, 0x402000]
    assert rows.restorer.tolist() == [0x7000, 0]  # without SA_RESTORER the word means nothing
    base = machine.at("sighand_struct", at, "action")
    assert rows.where.tolist() == [base, base + 63 * 32]
    assert set(rows.task.tolist()) == set(tasks)


def test_handlers_that_threads_share_are_told_once() -> None:
    machine = Machine(STRUCTS)
    at = sighand(machine, {10: (0x401000, 0, 0)})
    rows, _, tasks = handlers(machine, 0, at, at)
    assert (rows.signal.tolist(), rows.mm.tolist(), rows.task.tolist()) == ([10], [2], [tasks[1]])


def test_a_sighand_that_is_not_in_the_dump_is_a_problem_of_its_mm() -> None:
    machine = Machine(STRUCTS)
    sound = sighand(machine, {10: (0x401000, 0, 0)})
    machine.room(0, PAGE)
    lost = sighand(machine, {10: (0x401000, 0, 0)})
    machine.room(0, PAGE)
    machine.drop(lost)
    rows, log, _ = handlers(machine, lost, sound)
    assert rows.mm.tolist() == [2]
    problems = log.table()
    assert (problems.mm.tolist(), problems.where.tolist()) == ([1], [lost])


def test_without_threads_there_are_no_handlers() -> None:
    rows, log, _ = handlers(Machine(STRUCTS))
    assert not len(rows)
    assert not np.any(log.table().where)
