"""Did this kernel die, how, and who was it? Decided from its variables first, from its log only where they agree.

============================  ==========================================================================
``panic_cpu``                 -1: nothing called panic() or, to make a dump, crash_kexec(); else the CPU
``CRASHTIME`` in VMCOREINFO   appended by crash_save_vmcoreinfo(): a crash kernel was started
the log                       ``Kernel panic - not syncing: …``, or the oops; of the kernel itself alone
``buf`` of panic()            the text of a panic, though the log has gone round since
============================  ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vmaforensics.crash.patterns import FATAL, PANIC, Kind, reason_of
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.views.system.ending import Ending

_NO_PANIC: Final = -1  # PANIC_CPU_INVALID
# Other static variables called buf hold these (print_tainted).
_OTHER_TEXTS: Final = (b"Not tainted", b"Tainted: ")
_SHORTEST: Final = 4  # bytes that a panic's text has at least

# Reasons that have a cause of their own, which the log has just before.
_BY_OTHERS: Final = frozenset({Kind.OOPS, Kind.PANIC, Kind.TAINT, Kind.INIT_DIED, Kind.STACK_CORRUPTION})
_NEAR: Final = 10 * 10**9  # ns

HOW: Final = {
    Kind.SYSRQ: "somebody asked for it: SysRq c, from the keyboard or /proc/sysrq-trigger",
    Kind.OUT_OF_MEMORY: "memory had run out, and it was set to panic then",
    Kind.HUNG_TASK: "a task had waited for too long without being woken, and it was set to panic then",
    Kind.SOFT_LOCKUP: "a CPU had run kernel code for too long without letting others run",
    Kind.HARD_LOCKUP: "a CPU had taken no interrupts for too long",
    Kind.RCU_STALL: "a CPU or a task had kept an RCU grace period from ending",
    Kind.NMI: "a non-maskable interrupt came that nobody had asked for",
    Kind.MACHINE_CHECK: "the hardware reported an error",
    Kind.WARNING: "a warning was given, and it was set to panic then",
    Kind.STACK_CORRUPTION: "a kernel stack was overwritten",
    Kind.INIT_DIED: "process 1 ended, or there was none",
    Kind.NO_ROOT: "the root file system could not be mounted",
    Kind.OOPS: "the kernel met an error in its own code",
    Kind.PANIC: "the kernel gave up",
    Kind.NULL_POINTER: "kernel code used a pointer that is NULL, or a member of what it points to",
    Kind.PAGE_FAULT: "kernel code used an address that nothing maps",
    Kind.PROTECTION_FAULT: "kernel code used an address that cannot be one, or broke a rule of the CPU",
    Kind.BUG: "kernel code found that what must not be was so (BUG)",
    Kind.EXCEPTION: "the CPU could not execute kernel code",
    Kind.LIST_CORRUPTION: "a linked list did not hold together",
    Kind.SLAB: "an object of a slab was damaged",
    Kind.MAPLE_TREE: "the tree of a memory map broke its own rules",
    Kind.BAD_PAGE_MAP: "a page-table entry led where none may lead",
    Kind.BAD_PAGE_STATE: "a page that was handed out or given back was not in the state that it has then",
    Kind.BAD_RSS: "an address space ended with pages that its counters still had",
    Kind.PAGE_TABLE_LEAK: "an address space ended with page tables that its counter still had",
    Kind.USE_AFTER_FREE: "kernel code used memory that was not its own",
    Kind.OTHER_BUG: "kernel code found that what must not be was so",
    Kind.TAINT: "something happened that taints the kernel, and it was set to panic then",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How the kernel ended."""

    kind: Kind
    how: str
    text: str | None  # as the kernel gave it; printable
    cpu: int | None
    time: int | None  # ns since boot
    panic: Complaint | None  # the line of panic() and what is beneath it
    cause: Complaint | None  # the complaint that led to it, where that is not the panic itself
    evidence: tuple[str, ...]  # how all this is known
    doubts: tuple[str, ...]  # what does not fit, or could not be looked up

    @property
    def complaint(self) -> Complaint | None:
        """The complaint whose trace shows what went wrong."""
        return self.cause if self.cause is not None and self.cause.functions else self.panic


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What speaks for or against a crash."""

    ending: Ending
    crash_time: str | None  # CRASHTIME
    complaints: Sequence[Complaint]
    has_log: bool
    ending_cpu: int | None = None  # the one CPU with panic() or crash_kexec() on its stack


def find_death(signs: Signs) -> Death | None:
    """How the kernel ended; None if nothing says that it did."""
    evidence, doubts = [], []
    cpu = signs.ending.panic_cpu
    panics = [complaint for complaint in signs.complaints if complaint.kind == Kind.PANIC]
    if cpu is not None and cpu != _NO_PANIC:
        evidence.append(f"panic_cpu is {cpu}")
    if signs.crash_time is not None:
        evidence.append("VMCOREINFO has CRASHTIME, which only a kernel that crashed writes")
    if cpu is None:
        doubts.append("panic_cpu is not in the image")
        if panics:
            evidence.append("the kernel's log has its panic")
    if not evidence:
        return None
    panic = panics[0] if panics else None
    cause = _cause(signs.complaints, panic)
    text = _text(signs, panic, cause, evidence, doubts)
    kind = _kind(text, panic, cause)
    if cause is not None and kind in _BY_OTHERS:
        kind = cause.kind
    shown = panic or cause
    if cpu in (None, _NO_PANIC):
        cpu = None if shown is None else shown.said.cpu
        if cpu is None and signs.ending_cpu is not None:
            cpu = signs.ending_cpu
            evidence.append(f"CPU {cpu} alone has panic() or crash_kexec() on its stack")
    elif shown is not None and shown.said.cpu not in (None, cpu):
        doubts.append(f"the log says that it was CPU {shown.said.cpu}")
    return Death(
        kind=kind,
        how=HOW.get(kind, "the kernel gave up"),
        text=text,
        cpu=cpu,
        time=None if shown is None else shown.time,
        panic=panic,
        cause=cause,
        evidence=tuple(evidence),
        doubts=tuple(doubts),
    )


def seconds(nanoseconds: int) -> str:
    """Seconds since boot to the microsecond, cut off as the kernel prints them."""
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9 // 1000:06d}"


def _kind(text: str | None, panic: Complaint | None, cause: Complaint | None) -> Kind:
    """What it came from: the text of the panic tells, or, without one, the last oops."""
    if panic is None and cause is not None:
        return cause.kind
    return Kind.PANIC if text is None else reason_of(text)


def _cause(complaints: Sequence[Complaint], panic: Complaint | None) -> Complaint | None:
    """The complaint that led to the panic: the last one before it that nobody survives, or of the panic's own kind.

    Without a panic, the last of all that nobody survives: of an oops that starts the crash kernel by itself.
    """
    before = [complaint for complaint in complaints if panic is None or complaint.row < panic.row]
    if panic is None:
        return next((complaint for complaint in reversed(before) if complaint.kind in FATAL), None)
    if panic.reason in _BY_OTHERS:
        near = [
            complaint
            for complaint in before
            if complaint.caller == panic.caller and panic.time - complaint.time <= _NEAR
        ]
        return next(
            (complaint for complaint in reversed(near) if panic.reason != Kind.OOPS or complaint.kind in FATAL), None
        )
    return next((complaint for complaint in reversed(before) if complaint.kind == panic.reason), None)


def _may_be_panic(raw: bytes) -> bool:
    """Can this be the text of a panic? Several static variables are called buf, and hold other things."""
    return len(raw) >= _SHORTEST and raw.isascii() and raw.decode().isprintable() and not raw.startswith(_OTHER_TEXTS)


def _text(
    signs: Signs, panic: Complaint | None, cause: Complaint | None, evidence: list[str], doubts: list[str]
) -> str | None:
    """What the kernel gave as its reason, and from where."""
    buffers = [printable(text) for text in signs.ending.buffers]
    if panic is not None:
        text = printable(panic.title.removeprefix(PANIC))
        evidence.append(f"the log has the panic, {seconds(panic.time)} s after boot")
        if text in buffers:
            evidence.append("panic() has the same text in its buffer")
        return text
    possible = [printable(raw) for raw in signs.ending.buffers if _may_be_panic(raw)]
    if cause is None and len(possible) == 1:
        doubts.append("the text of the panic is only in panic()'s buffer, and the log does not confirm it")
        return possible[0]
    if cause is not None:
        evidence.append(f"the log has the oops, {seconds(cause.time)} s after boot, and no panic")
        return printable(cause.title)
    doubts.append("the log has no panic" if signs.has_log else "the log is not in the image")
    return None
