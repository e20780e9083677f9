"""Complaints of the kernel: which lines are one, whose they are, what they say."""

from __future__ import annotations

import time

import numpy as np
import pytest
from work import budget

from vmaforensics.arch.known import DEFAULT
from vmaforensics.crash import complaints
from vmaforensics.crash.complaints import read_complaints
from vmaforensics.crash.fingerprint import fingerprint, top_functions
from vmaforensics.crash.patterns import Kind, kind_of, reason_of
from vmaforensics.views.log.records import Log, LogRecords

from .texts import FATAL_PANIC, HUNG_TASK, LIST_CORRUPTION, NULL_POINTER, SOFT_LOCKUP, complaints_of, log_of

KERNEL: dict[str, int] = {"caller": 5}
PRINTED = DEFAULT.printed_registers


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("BUG: Bad page map in process cat  pte:8000000012345067 pmd:01234067", Kind.BAD_PAGE_MAP),
        ("BUG: Bad page state in process cat  pfn:12345", Kind.BAD_PAGE_STATE),
        ("BUG: Bad rss-counter state mm:00000000a1b2c3d4 type:MM_ANONPAGES val:3", Kind.BAD_RSS),
        ("BUG: non-zero pgtables_bytes on freeing mm: 4096", Kind.PAGE_TABLE_LEAK),
        ("BUG: unable to handle page fault for address: ffffb0d680a1fd20", Kind.PAGE_FAULT),
        ("BUG: unable to handle kernel paging request at ffffb0d680a1fd20", Kind.PAGE_FAULT),
        ("BUG: sleeping function called from invalid context at mm/x.c:1", Kind.OTHER_BUG),
        ("BUG: KASAN: slab-use-after-free in vma_lookup+0x1/0x2", Kind.USE_AFTER_FREE),
        ("general protection fault, maybe for address 0xdead000000000122: 0000 [#1] SMP", Kind.PROTECTION_FAULT),
        ("Oops: general protection fault, maybe for address 0xdead000000000122: 0000", Kind.PROTECTION_FAULT),
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [cat:812]", Kind.SOFT_LOCKUP),
        ("watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1", Kind.HARD_LOCKUP),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 1", Kind.HARD_LOCKUP),
        ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", Kind.RCU_STALL),
        ("rcu: INFO: rcu_sched self-detected stall on CPU", Kind.RCU_STALL),
        ("INFO: task cat:812 blocked for more than 120 seconds.", Kind.HUNG_TASK),
        ("cat invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE), order=0", Kind.OUT_OF_MEMORY),
        ("Out of memory: Killed process 812 (cat) total-vm:1kB", Kind.OUT_OF_MEMORY),
        ("WARNING: CPU: 0 PID: 1 at mm/mmap.c:1 exit_mmap+0x1/0x2", Kind.WARNING),
        ("WARNING: mm/mmap.c:1 at exit_mmap+0x1/0x2, CPU#0: cat/812", Kind.WARNING),
        ("Uhhuh. NMI received for unknown reason 30 on CPU 0.", Kind.NMI),
        ("sysrq: Trigger a crash", Kind.SYSRQ),
        ("Linux version 6.1.0 BUG: none", None),
        ("debug: BUG is what this is about", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_line_is_told_by_its_beginning(line: str, kind: Kind | None) -> None:
    assert kind_of(line) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("sysrq triggered crash", Kind.SYSRQ),
        ("NMI: Not continuing", Kind.NMI),
        ("Out of memory: system-wide panic_on_oom is enabled", Kind.OUT_OF_MEMORY),
        ("hung_task: blocked tasks", Kind.HUNG_TASK),
        ("softlockup: hung tasks", Kind.SOFT_LOCKUP),
        ("Hard LOCKUP", Kind.HARD_LOCKUP),
        ("Fatal exception in interrupt", Kind.OOPS),
        ("Attempted to kill init! exitcode=0x0000000b", Kind.INIT_DIED),
        ("VFS: Unable to mount root fs on unknown-block(0,0)", Kind.NO_ROOT),
        ("something of a driver", Kind.PANIC),
    ],
)
def test_the_text_of_a_panic_says_what_it_came_from(text: str, kind: Kind) -> None:
    assert reason_of(text) == kind


def test_an_oops_is_one_complaint_with_its_header_registers_and_trace() -> None:
    (found,) = complaints_of(log_of((NULL_POINTER, KERNEL))).kept
    said = found.said
    assert (found.kind, found.row) == (Kind.NULL_POINTER, 0)
    assert (said.cpu, said.pid, said.comm, said.address) == (3, 812, "cat", 0x40)
    assert said.place is not None and (said.place.name, said.place.offset, said.place.size) == ("mas_walk", 0x16, 0x1D0)
    assert [frame.name for frame in said.frames if not frame.guess][:3] == ["mt_find", "find_vma", "do_user_addr_fault"]
    assert sum(frame.guess for frame in said.frames) == 3
    assert [frame.module for frame in said.frames if frame.module] == ["fuse"]
    # Registers of kernel mode only: those of the system call come later and are the program's.
    assert said.registers["RAX"] == 0 and said.registers["RBX"] == 0xFFFF8B4BC1A5D000
    assert said.registers["RSP"] == 0xFFFFB0D680A1FD20
    assert "ORIG_RAX" not in said.registers


def test_a_reason_and_the_exception_it_was_raised_by_are_one() -> None:
    (found,) = complaints_of(log_of((LIST_CORRUPTION, KERNEL))).kept
    assert found.kind == Kind.LIST_CORRUPTION
    assert (found.said.cpu, found.said.pid, found.said.comm) == (0, 77, "a b: c")
    assert found.functions[0] == "__list_del_entry_valid_or_report.cold"
    assert top_functions(found.functions) == ["unlink_anon_vmas", "free_pgtables", "exit_mmap"]


def test_two_oopses_of_one_task_are_two() -> None:
    log = log_of((NULL_POINTER, KERNEL), (LIST_CORRUPTION, KERNEL), (FATAL_PANIC, KERNEL))
    assert [found.kind for found in complaints_of(log).kept] == [Kind.NULL_POINTER, Kind.LIST_CORRUPTION, Kind.PANIC]


def test_lines_of_two_cpus_that_are_mixed_up_are_told_apart() -> None:
    first, second = NULL_POINTER.split("\n"), LIST_CORRUPTION.split("\n")
    parts = []
    for place in range(max(len(first), len(second))):
        parts += [(first[place], {"caller": 5})] if place < len(first) else []
        parts += [(second[place], {"caller": 9})] if place < len(second) else []
    found = complaints_of(log_of(*parts)).kept
    assert [(item.kind, item.said.pid) for item in found] == [(Kind.NULL_POINTER, 812), (Kind.LIST_CORRUPTION, 77)]
    assert found[1].functions[1] == "unlink_anon_vmas.isra.0"


def test_a_trace_goes_on_beyond_the_registers_of_what_was_interrupted() -> None:
    first, panic = complaints_of(log_of((SOFT_LOCKUP, KERNEL))).kept
    assert (first.kind, first.said.cpu, first.said.pid) == (Kind.SOFT_LOCKUP, 1, 812)
    frames = [frame.name for frame in panic.said.frames if not frame.guess]
    assert frames[-4:] == [
        "page_vma_mapped_walk",
        "try_to_unmap_one",
        "rmap_walk_anon",
        "entry_SYSCALL_64_after_hwframe",
    ]
    assert [frame.name for frame in panic.said.frames if frame.interrupted] == ["page_vma_mapped_walk"]
    assert panic.said.registers["RBX"] == 0xFFFF8B4BC1A5D000
    expected = ["page_vma_mapped_walk", "try_to_unmap_one", "rmap_walk_anon"]
    assert top_functions(first.functions) == top_functions(panic.functions) == expected


def test_a_hung_task_is_the_one_that_is_named() -> None:
    (found,) = complaints_of(log_of((HUNG_TASK, KERNEL))).kept
    assert (found.said.comm, found.said.pid, found.said.cpu) == ("kworker/u8:2", 513, None)
    assert [frame.name for frame in found.said.frames] == ["__schedule", "schedule", "rwsem_down_write_slowpath"]


def test_what_programs_write_is_no_complaint_and_no_part_of_one() -> None:
    forged = {"caller": 5, "facility": 1}
    log = log_of(
        (NULL_POINTER, forged), ("BUG: Bad page map in process real  pte:1 pmd:1", KERNEL), (LIST_CORRUPTION, forged)
    )
    (found,) = complaints_of(log).kept
    assert (found.kind, found.said.pid, found.said.frames) == (Kind.BAD_PAGE_MAP, None, [])


def test_what_comes_much_later_is_another_matter() -> None:
    log = log_of(
        ("BUG: Bad page map in process real  pte:1 pmd:1", KERNEL),
        ("CPU: 1 PID: 2 Comm: later Not tainted 6.1", {"caller": 5, "time": 11 * 10**9}),
    )
    assert complaints_of(log).kept[0].said.pid is None


def test_a_log_full_of_complaints_is_read_within_bounds() -> None:
    log = log_of(*[("BUG: Bad page state in process x  pfn:1 " + "a" * 80, KERNEL)] * 50_000)
    before = time.monotonic()
    found = complaints_of(log)
    assert (len(found.kept), found.total) == (200, 50_000)
    assert time.monotonic() - before < 20


@pytest.mark.parametrize(
    "text",
    [
        "CPU: 1 PID: 2 Comm: " + "(Kdump: loaded) " * 4000,
        "[" * 60_000,
        "x" * 30_000 + " invoked oom-killer",
        "INFO: task " + "blocked " * 8000,
        "Call Trace:\n " + "a.b$" * 10_000,
        "RIP: 0010:" + "f+0x" * 15_000,
        "BUG: unable to handle page fault for address: " + "0" * 60_000,
        "CPU: 1 PID: " + "9" * 60_000 + " Comm: x Tainted: ",
        "Out of memory: Killed process " + "9" * 60_000 + " (x)",
        "BUG: Bad rss-counter state mm:0 type:X val:" + "9" * 60_000,
    ],
)
def test_no_line_takes_long(text: str) -> None:
    before = time.monotonic()
    complaints_of(log_of(("BUG: x\n" + text + "\n" + text, KERNEL)))
    kind_of(text)
    assert time.monotonic() - before < 2


def test_a_fingerprint_is_that_of_the_same_functions_on_any_build() -> None:
    one = top_functions(["dump_stack", "panic", "sysrq_handle_crash", "__handle_sysrq.cold", "vfs_write"])
    other = top_functions(["dump_stack_lvl", "vpanic", "sysrq_handle_crash.isra.0", "__handle_sysrq", "vfs_write"])
    assert one == other == ["sysrq_handle_crash", "__handle_sysrq", "vfs_write"]
    assert fingerprint("sysrq", one) == fingerprint("sysrq", other) != fingerprint("panic", one)
    assert fingerprint("sysrq", []) is None
    assert top_functions(["__x64_sys_mincore"]) == top_functions(["__do_sys_mincore.isra.0"]) == ["sys_mincore"]


def test_fingerprints_stay_what_they_are() -> None:
    """They are kept and compared across versions: a new rule gets a new number before the colon.

    ``printf "sysrq\\nsysrq_handle_crash\\nvfs_write" | sha256sum``
    """
    assert fingerprint("sysrq", ["sysrq_handle_crash", "vfs_write"]) == "1:33e0d95dc2c578bd"


def _alike(text: bytes, count: int) -> Log:
    """A log of ``count`` records of one text."""
    rows = np.arange(count)
    records = LogRecords.of(
        seq=rows, time=rows * 1000, caller=np.full(count, 1), begin=rows * len(text), size=np.full(count, len(text))
    )
    return Log(records=records, data=text * count, source="prb")


def test_a_log_of_many_records_is_not_looked_at_record_by_record() -> None:
    with budget(calls=2_000):
        assert read_complaints(_alike(b"usb 1-1: new device number 4, this is a line\n", 1 << 18), PRINTED).total == 0


def test_of_more_complaints_than_are_looked_at_the_first_and_the_last_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complaints, "_MOST_LOOKED_AT", 100)
    found = read_complaints(_alike(b"BUG: Bad rss-counter state mm:0 type:MM_ANONPAGES val:1", 1000), PRINTED)
    assert (found.kept[0].row, found.kept[-1].row, found.total) == (0, 999, 200)
