"""How a kernel ended: by its variables, its log, and what they say together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.crash.death import Signs, find_death
from vmaforensics.crash.patterns import Kind
from vmaforensics.views.system.ending import Ending

from .texts import FATAL_PANIC, HUNG_TASK, LIST_CORRUPTION, NULL_POINTER, complaints_of, log_of

if TYPE_CHECKING:
    from vmaforensics.crash.death import Death

PANIC = "Kernel panic - not syncing: "
KERNEL: dict[str, int] = {"caller": 5}


def _death(
    *parts: tuple[str, dict[str, int]],
    panic_cpu: int | None = 3,
    crash_time: str | None = None,
    buffers: tuple[bytes, ...] = (),
) -> Death | None:
    ending = Ending(
        panic_cpu=panic_cpu,
        oops_in_progress=0,
        die_counter=0,
        warn_count=0,
        tainted=0,
        crash_kernel=False,
        buffers=buffers,
    )
    complaints = complaints_of(log_of(*parts)).kept if parts else []
    return find_death(Signs(ending=ending, crash_time=crash_time, complaints=complaints, has_log=bool(parts)))


def test_a_kernel_that_called_no_panic_has_not_crashed() -> None:
    assert _death(("Linux version 6.1", KERNEL), panic_cpu=-1) is None
    assert _death((NULL_POINTER, KERNEL), panic_cpu=-1) is None  # one task died of it, the machine ran on


def test_a_panic_in_the_log_is_not_believed_against_the_variable() -> None:
    assert _death((PANIC + "made up by a module", KERNEL), panic_cpu=-1) is None


def test_a_panic_that_a_program_wrote_is_none() -> None:
    forged = {"caller": 5, "facility": 1}
    assert _death((PANIC + "forged", forged), panic_cpu=None) is None
    death = _death((PANIC + "forged", forged), (PANIC + "sysrq triggered crash", KERNEL))
    assert death is not None and death.text == "sysrq triggered crash"


def test_an_asked_for_crash() -> None:
    death = _death(
        ("sysrq: Trigger a crash\n" + PANIC + "sysrq triggered crash", KERNEL), buffers=(b"sysrq triggered crash",)
    )
    assert death is not None
    assert (death.kind, death.text, death.cpu) == (Kind.SYSRQ, "sysrq triggered crash", 3)
    assert "panic() has the same text in its buffer" in death.evidence


def test_a_panic_after_an_oops_is_that_oops() -> None:
    death = _death((NULL_POINTER, KERNEL), (FATAL_PANIC, KERNEL))
    assert death is not None and death.cause is not None
    assert (death.kind, death.text, death.cause.kind) == (Kind.NULL_POINTER, "Fatal exception", Kind.NULL_POINTER)
    assert death.complaint is death.cause


def test_a_panic_over_a_taint_is_what_tainted() -> None:
    bad = "BUG: Bad page map in process awk-exits  pte:8000002007f28867 pmd:1f86b067"
    death = _death((bad, KERNEL), (PANIC + "panic_on_taint set ...", KERNEL))
    assert death is not None and death.cause is not None
    assert (death.kind, death.cause.title) == (Kind.BAD_PAGE_MAP, bad)


def test_an_oops_of_another_task_or_long_before_is_not_the_cause() -> None:
    panic = PANIC + "something of a driver"
    for columns in ({"caller": 6, "time": 20 * 10**9}, {"caller": 5, "time": 20 * 10**9}):
        death = _death((NULL_POINTER, KERNEL), (panic, columns))
        assert death is not None
        assert (death.kind, death.cause) == (Kind.PANIC, None)


def test_the_last_oops_before_the_panic_counts() -> None:
    death = _death((NULL_POINTER, KERNEL), (LIST_CORRUPTION, KERNEL), (FATAL_PANIC, KERNEL))
    assert death is not None and death.kind == Kind.LIST_CORRUPTION


def test_an_oops_that_starts_the_crash_kernel_has_no_panic() -> None:
    death = _death((NULL_POINTER, KERNEL), crash_time="2024-01-01T00:00:00Z")
    assert death is not None
    assert death.kind == Kind.NULL_POINTER
    assert death.text == "BUG: kernel NULL pointer dereference, address: 0000000000000040"


def test_a_panic_over_a_hung_task_names_it() -> None:
    death = _death((HUNG_TASK, KERNEL), (PANIC + "hung_task: blocked tasks", KERNEL))
    assert death is not None and death.cause is not None
    assert (death.kind, death.cause.said.pid) == (Kind.HUNG_TASK, 513)


def test_without_its_log_only_the_buffer_of_panic_has_the_text() -> None:
    death = _death(buffers=(b"Not tainted", b"sysrq triggered crash", b"\x1bO"))
    assert death is not None
    assert (death.kind, death.text) == (Kind.SYSRQ, "sysrq triggered crash")
    assert death.doubts


def test_two_buffers_that_might_be_it_are_neither() -> None:
    death = _death(buffers=(b"one text", b"another text"))
    assert death is not None
    assert (death.kind, death.text) == (Kind.PANIC, None)
    assert "the log is not in the image" in death.doubts


def test_a_log_that_names_another_cpu_is_a_doubt() -> None:
    death = _death((PANIC + "x\nCPU: 1 PID: 2 Comm: c Not tainted 6.1", KERNEL))
    assert death is not None
    assert (death.cpu, death.doubts) == (3, ("the log says that it was CPU 1",))


def test_without_the_variable_the_log_says_which_cpu_it_was() -> None:
    death = _death((PANIC + "x\nCPU: 1 PID: 2 Comm: c Not tainted 6.1", KERNEL), panic_cpu=None)
    assert death is not None
    assert (death.cpu, death.doubts) == (1, ("panic_cpu is not in the image",))
