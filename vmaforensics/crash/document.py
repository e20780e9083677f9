"""The document of a crash: what ``crash --format json`` writes. Addresses are hexadecimal strings."""

from __future__ import annotations

import msgspec

from vmaforensics.crash.memory_document import MemoryPart  # noqa: TC001 - msgspec reads the annotations
from vmaforensics.crash.pointers_document import FaultPart, PointerPart, PointersPart  # noqa: TC001 - the same
from vmaforensics.crash.trail.parts import FindingPart, MeaningPart, NamedPart, WordPart  # noqa: TC001 - the same
from vmaforensics.crash.waits_document import WaitsPart  # noqa: TC001 - the same
from vmaforensics.proc.log_document import EarlierPart, LogRecord  # noqa: TC001 - the same


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part."""


class CrashSchema(_Part, frozen=True):
    """Which format this is."""

    name: str = "vmaforensics-crash"
    version: str = "1.0"


class ImageName(_Part, frozen=True):
    """The file."""

    path: str
    format: str
    size: int  # bytes


class RunningTask(_Part, frozen=True):
    """A task on a CPU; null where it could not be read."""

    cpu: int
    task: str | None
    pid: int | None
    comm: str | None


class Frame(_Part, frozen=True, omit_defaults=True):
    """A function on the way; ``reliable`` is false for a word that only looked like a return address."""

    name: str
    offset: int
    size: int
    module: str | None = None
    reliable: bool = True
    interrupted: bool = False  # where an interrupt or exception came upon it
    address: str | None = None
    how: str = ""  # it was found, where it is not from the log
    stack: str = "TASK"  # what the kernel calls the stack it lies on


class Backtrace(_Part, frozen=True):
    """A call trace of the log, innermost frame first. ``of`` is the complaint it stands beneath: "cause" or "panic"."""

    of: str
    frames: list[Frame]


class StackTask(_Part, frozen=True):
    """Whose stack it is; pid 0 are the idle tasks. ``cpu`` is the one it was on, null for none."""

    task: str
    pid: int
    tgid: int
    comm: str
    cpu: int | None


class StackPart(_Part, frozen=True):
    """Stacks that are the same, unwound in the image, innermost frame first.

    ``why`` it is shown: "died", "cpu" (it was on one), "waits" (for something, and no signal ends that: D), "other".
    ``whole`` says that it was followed to its beginning; otherwise ``end`` says why not.
    """

    why: str
    tasks: list[StackTask]  # the first thousand
    count: int
    frames: list[Frame]
    end: str
    whole: bool


class Registers(_Part, frozen=True):
    """Of one CPU, by the names that the kernel prints, and where they are from."""

    cpu: int
    source: str
    values: dict[str, str]


class DeathPart(_Part, frozen=True):
    """How it ended. ``kind`` is a fixed word, ``how`` says it for people, ``text`` is the kernel's own."""

    kind: str
    how: str
    text: str | None
    time: str | None  # seconds since boot, to the microsecond
    cpu: int | None
    pid: int | None
    comm: str | None
    task: str | None
    cause: str | None  # the complaint that led to it
    fingerprint: str | None
    functions: list[str]  # that the fingerprint is made of, with the kind
    evidence: tuple[str, ...]
    backtraces: list[Backtrace]
    registers: list[Registers]


class Machine(_Part, frozen=True):
    """The kernel and what it ran on."""

    release: str
    banner: str
    architecture: str
    hostname: str
    hardware: str | None
    command_line: str | None
    cpus: int | None  # online; a panic stops the others
    ram: str  # bytes
    booted: str | None
    clock: str | None
    crashed: str | None  # CRASHTIME
    uptime: int | None  # seconds
    load: tuple[float, float, float] | None


class Taint(_Part, frozen=True):
    """Taint bits since boot; null where they could not be read."""

    mask: str | None
    letters: str
    words: list[str]


class SinceBoot(_Part, frozen=True):
    """What the kernel counted, though its log may have lost it; null where it could not be read."""

    oopses: int | None  # die_counter
    warnings: int | None  # warn_count
    printing: bool | None  # an oops or a panic was being printed (oops_in_progress)
    crash_kernel: bool | None  # one was loaded, to make a dump


class Module(_Part, frozen=True):
    """A module; ``taint`` are the letters of what it taints the kernel with."""

    name: str
    address: str
    size: int  # bytes
    state: str
    taint: str


class ComplaintPart(_Part, frozen=True):
    """Something the kernel complained of; the process is the one that was running then or that the line names.

    ``words`` are those of the image that it leads to, ``findings`` what the rules of ``report`` say of the records that
    it is about, ``notes`` what could not be followed. Only complaints about memory are ``followed``.
    """

    kind: str
    time: str
    text: str
    cpu: int | None
    pid: int | None
    comm: str | None
    functions: list[str]
    ended: bool = False  # it is what led to the end, or the panic itself
    followed: bool = False
    words: list[WordPart] = []
    findings: list[FindingPart] = []
    notes: list[str] = []
    named: list[NamedPart] = []
    fault: FaultPart | None = None  # the address that could not be used
    registers: list[PointerPart] = []  # what those beneath it lead to by now; empty for what ended it: see ``pointers``
    meaning: MeaningPart | None = None


class NotAssessed(_Part, frozen=True):
    """What could not be read or believed."""

    what: str
    why: str


class CrashDocument(_Part, frozen=True):
    """The first page of a crash case."""

    schema: CrashSchema
    image: ImageName
    verdict: str
    death: DeathPart | None
    machine: Machine
    taint: Taint
    since_boot: SinceBoot
    modules: list[Module]
    running: list[RunningTask]
    stacks: list[StackPart]
    registers: list[Registers]  # of CPUs, as the dump or the crashing kernel noted them
    pointers: PointersPart | None  # null where nothing died, or no stacks could be read
    waits: WaitsPart | None  # null where no stacks could be read
    memory: MemoryPart
    complaints: list[ComplaintPart]
    complaints_left_out: int
    log: list[LogRecord]  # its last records
    earlier: list[EarlierPart]  # logs of earlier kernels that memory has kept, with their last records
    not_assessed: list[NotAssessed]
