"""The document of a crash as text for people."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final, NamedTuple

from vmaforensics.crash.memory_text import memory_lines
from vmaforensics.crash.pointers_text import fault_lines, pointer_summary, register_lines, said_lines, stack_lines
from vmaforensics.crash.trail.text import complaint_lines, first_words, lead
from vmaforensics.crash.waits_text import wait_lines, wait_summary
from vmaforensics.proc.log import log_lines
from vmaforensics.words.amounts import amount, counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.document import ComplaintPart, CrashDocument, DeathPart, Frame, Module, Registers, StackPart
    from vmaforensics.crash.pointers_document import PointersPart

COMPLAINTS: Final = "What the kernel complained of"  # title of a section
_WIDTH: Final = 100
_LABEL: Final = 12
_IN_A_ROW: Final = 3  # registers
_MOST_COMPLAINTS: Final = 20
_MOST_MODULES: Final = 500
_MOST_MISSING: Final = 100  # things not assessed
_MOST_NAMED: Final = 5  # tasks of stacks that are alike


class Title(str):
    """The title of a section, among its lines."""

    __slots__ = ()


class Section(NamedTuple):
    """A part of the page."""

    title: str
    lines: list[str]


def render_crash(document: CrashDocument) -> str:
    """The first page of a crash case."""
    shown = [f"{line}\n{'-' * len(line)}" if isinstance(line, Title) else line for line in _lines(document)]
    return "\n".join(shown) + "\n"


def crash_sections(document: CrashDocument) -> list[Section]:
    """What stands beneath the head of the page, section by section."""
    found: list[Section] = []
    for line in _lines(document):
        if isinstance(line, Title):
            found.append(Section(str(line), []))
        elif found:
            found[-1].lines.append(line)
    return found


def _lines(document: CrashDocument) -> list[str]:
    """All lines; titles are marked as such."""
    lines = [*_head(document), *_fault(document), *_complaints(document), *_waits(document), *_trace(document)]
    lines += ["", *_title("Where the memory went"), *memory_lines(document.memory)]
    if document.log:
        lines += ["", *_title("The end of the log")]
        lines += [line for record in document.log for line in log_lines(record).splitlines()]
    return [*lines, *_modules(document.modules), *_not_assessed(document)]


def _title(text: str) -> Iterator[str]:
    yield Title(text)


def _row(label: str, text: str) -> list[str]:
    """A labelled line, wrapped."""
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{label:{_LABEL}}", subsequent_indent=" " * _LABEL, break_on_hyphens=False
    ) or [label]


def _head(document: CrashDocument) -> Iterator[str]:
    """Who died, how, and where."""
    machine = document.machine
    yield from _row("VERDICT", document.verdict)
    if document.death is not None:
        yield from _death(document.death)
    yield from first_words(document.complaints)
    if lead(document.complaints) is None:  # else it is said already
        yield from _pointer(document)
    if document.waits is not None and (summary := wait_summary(document.waits)) is not None:
        yield from _row("WAITS", summary)
    dead = None if document.death is None else document.death.cpu
    others = [task for task in document.running if task.cpu != dead]
    for place, task in enumerate(others):
        named = "cannot be read" if task.pid is None else f"pid {task.pid} ({task.comm}), task {task.task}"
        yield from _row("" if place else "RUNNING", f"CPU {task.cpu}: {named}")
    yield from _row("KERNEL", f"{machine.release}, {machine.architecture}")
    version = machine.banner.partition(") #")[2]
    if version:
        yield from _row("VERSION", f"#{version}")
    ram = amount(int(machine.ram, 16))
    online = "online" if document.death is None else "online at the end (a panic takes the others offline)"
    cpus = "" if machine.cpus is None else f"{counted(machine.cpus, 'CPU')} {online}, "
    yield from _row("MACHINE", f"{machine.hardware or 'unknown'}; {cpus}{ram}")
    yield from _row("HOST", ", ".join(_times(document)))
    if machine.command_line is not None:
        yield from _row("COMMAND", machine.command_line)
    yield from _taint(document)
    if counted_in := list(_since_boot(document)):
        yield from _row("SINCE BOOT", ", ".join(counted_in))
    for place, earlier in enumerate(document.earlier):
        written = "" if earlier.written is None else f", written {earlier.written}"
        text = f"memory has the log of an earlier kernel: {earlier.title}{written}; log --earlier shows it"
        yield from _row("" if place else "BEFORE", text)
    yield from _row("IMAGE", f"{document.image.path} ({document.image.format})")


def _death(death: DeathPart) -> Iterator[str]:
    yield from _row("HOW", f"{death.how} ({death.kind})")
    if death.cause is not None and death.cause != death.text:
        yield from _row("BECAUSE", death.cause)
    where = ["CPU unknown" if death.cpu is None else f"CPU {death.cpu}"]
    if death.pid is not None:
        where.append(f"pid {death.pid} ({death.comm})" + (f", task {death.task}" if death.task else ""))
    if death.time is not None:
        where.append(f"{death.time} s after boot")
    yield from _row("WHERE", ", ".join(where))
    for place, evidence in enumerate(death.evidence):
        yield from _row("" if place else "KNOWN BY", evidence)
    if death.fingerprint is not None:
        yield from _row("FINGERPRINT", f"{death.fingerprint}  ({' < '.join([death.kind, *death.functions])})")


def _times(document: CrashDocument) -> Iterator[str]:
    machine = document.machine
    yield machine.hostname or "unknown"
    if machine.booted is not None:
        yield f"booted {machine.booted}"
    if machine.crashed is not None:
        yield f"crashed {machine.crashed}"
    elif machine.clock is not None:
        yield f"clock {machine.clock}"
    if machine.uptime is not None:
        yield f"up {_duration(machine.uptime)}"
    if machine.load is not None:
        yield "load " + " ".join(f"{load:.2f}" for load in machine.load)


def _duration(seconds: int) -> str:
    """Days and a time of day.

    >>> _duration(90061)
    '1 day 01:01:01'
    """
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{counted(days, 'day')} {clock}" if days else clock


def _taint(document: CrashDocument) -> Iterator[str]:
    taint = document.taint
    if taint.mask is None:
        yield from _row("TAINT", "cannot be read")
    elif not taint.letters:
        yield from _row("TAINT", "none")
    for place, words in enumerate(taint.words):
        yield from _row("" if place else "TAINT", words)


def _since_boot(document: CrashDocument) -> Iterator[str]:
    """What the kernel counted."""
    since = document.since_boot
    if since.oopses is not None:
        yield counted(since.oopses, "oops", "es")
    if since.warnings is not None:
        yield counted(since.warnings, "warning")
    if since.printing:
        yield "an oops or a panic was being printed"
    if since.crash_kernel is not None:
        yield f"{'a' if since.crash_kernel else 'no'} crash kernel was loaded"


def _ended(document: CrashDocument) -> ComplaintPart | None:
    """The complaint that led to the end and has an address that could not be used."""
    return next((complaint for complaint in document.complaints if complaint.ended and complaint.fault), None)


def _pointer(document: CrashDocument) -> Iterator[str]:
    """Where the pointer leads that could not be used."""
    ended = _ended(document)
    if document.pointers is None or ended is None:
        return
    if (summary := pointer_summary(document.pointers, ended.fault)) is not None:
        yield from _row("POINTER", summary)


def _fault(document: CrashDocument) -> Iterator[str]:
    """The address that could not be used, and those that the kernel named."""
    ended = _ended(document)
    lines = [] if ended is None or ended.fault is None else list(fault_lines(ended.fault, ended.words))
    lines += [] if document.pointers is None else said_lines(document.pointers)
    if lines:
        yield ""
        yield from _title("What the addresses lead to")
        yield from lines


def _explained(pointers: PointersPart) -> Iterator[str]:
    """What the registers and the stack of who died lead to."""
    for lines, title in (
        (list(register_lines(pointers.registers)), f"What these registers lead to, from {pointers.source}"),
        (
            list(stack_lines(pointers)),
            "What else its stack leads to, by frame; some may be left over from earlier calls",
        ),
    ):
        if lines:
            yield ""
            yield from _title(title)
            yield from lines


def _waits(document: CrashDocument) -> Iterator[str]:
    """Who waits for whom."""
    lines = [] if document.waits is None else list(wait_lines(document.waits))
    if lines:
        yield ""
        yield from _title("Who waits for whom")
        yield from lines


def _trace(document: CrashDocument) -> Iterator[str]:
    """What the log and the stacks say of who died, of the other CPUs, and of those who wait."""
    died = [stack for stack in document.stacks if stack.why == "died"]
    for stack in died:
        yield from _stack(stack)
    if document.death is not None:
        yield from _from_the_log(document, document.death, shown=any(stack.whole for stack in died))
    for stack in document.stacks:
        if stack.why != "died":
            yield from _stack(stack)


def _from_the_log(document: CrashDocument, death: DeathPart, *, shown: bool) -> Iterator[str]:
    """Call traces of the log, except for that of the panic where the stack itself was ``shown``; registers."""
    for backtrace in death.backtraces:
        if backtrace.of == "panic" and shown:
            continue
        yield ""
        yield from _title(f"Call trace in the log, beneath the {backtrace.of}")
        yield from _frames(backtrace.frames)
    noted = [registers for registers in document.registers if registers.cpu == death.cpu]
    for registers in death.registers[:1] or noted[:1]:
        yield ""
        yield from _title(f"Registers of CPU {registers.cpu}, from {registers.source}")
        yield from _registers(registers)
    if document.pointers is not None:
        yield from _explained(document.pointers)


def _stack(stack: StackPart) -> Iterator[str]:
    """Whose it is, and its frames."""
    yield ""
    yield from _title(_owners(stack))
    yield from _frames(stack.frames)
    if not stack.whole:
        yield f"    ({stack.end})"
    elif not stack.frames:
        yield "    (in user mode)"


def _owners(stack: StackPart) -> str:
    """Whose stack it is."""
    named = [f"pid {task.pid} ({task.comm})" for task in stack.tasks[:_MOST_NAMED]]
    rest = stack.count - len(named)
    who = ", ".join(named) + (f" and {rest:,} more" if rest else "")
    if stack.why in ("died", "cpu"):
        return f"Stack of CPU {stack.tasks[0].cpu}: {who}" + (", which died" if stack.why == "died" else "")
    state = "in uninterruptible sleep (D)" if stack.why == "waits" else "off the CPUs"
    return f"Stack of {counted(stack.count, 'task')} {state}: {who}"


def _frames(frames: list[Frame]) -> Iterator[str]:
    """A line for each frame; where a stack other than the task's begins and ends, as the kernel marks it."""
    before = "TASK"
    for frame in frames:
        if frame.stack != before:
            yield from (f"   </{before}>",) * (before != "TASK")
            yield from (f"   <{frame.stack}>",) * (frame.stack != "TASK")
            before = frame.stack
        yield f"  {' ' if frame.reliable else '?'} {_frame(frame)}"
    if before != "TASK":
        yield f"   </{before}>"


def _frame(frame: Frame) -> str:
    module = f" [{frame.module}]" if frame.module else ""
    interrupted = "  (interrupted here)" if frame.interrupted else ""
    place = f"+{frame.offset:#x}/{frame.size:#x}" if frame.size else ""
    return f"{frame.name}{place}{module}{interrupted}"


def _registers(registers: Registers) -> Iterator[str]:
    cells = [f"{name:>8} {int(value, 16):016x}" for name, value in registers.values.items()]
    for at in range(0, len(cells), _IN_A_ROW):
        yield "  ".join(cells[at : at + _IN_A_ROW])


def _complaints(document: CrashDocument) -> Iterator[str]:
    """What the kernel complained of, the last ones."""
    if not document.complaints:
        return
    yield ""
    yield from _title(COMPLAINTS)
    top = lead(document.complaints)
    explained: set[str] = set()
    shown = document.complaints[-_MOST_COMPLAINTS:]
    hidden = len(document.complaints) - len(shown) + document.complaints_left_out
    if hidden:
        yield f"  {counted(hidden, 'more complaint')}; --format json has the first and the last of them"
    for complaint in shown:
        who = "" if complaint.pid is None else f"  [{complaint.comm}, pid {complaint.pid}]"
        yield f"  {complaint.time:>12}  {complaint.kind}: {complaint.text}{who}"
        if complaint.functions:
            yield f"{'':16}in {' < '.join(complaint.functions)}"
        # A panic that something else led to has no meaning of its own.
        known = complaint.kind in explained or (complaint.kind == "panic" and complaint.ended and bool(explained))
        explained.add(complaint.kind)
        yield from complaint_lines(complaint, shown=complaint is top, explained=known)


def _modules(modules: list[Module]) -> Iterator[str]:
    if not modules:
        return
    yield ""
    yield from _title(f"{counted(len(modules), 'module')}, the newest first")
    words = []
    for module in modules[:_MOST_MODULES]:
        notes = [amount(module.size)]
        notes += [f"taint {module.taint}"] if module.taint else []
        notes += [module.state] if module.state != "live" else []
        words.append(f"{module.name} ({', '.join(notes)})".replace(" ", "\N{NO-BREAK SPACE}"))
    if len(modules) > _MOST_MODULES:
        words.append(f"and {len(modules) - _MOST_MODULES:,} more")
    for line in textwrap.wrap(", ".join(words), _WIDTH, initial_indent="  ", subsequent_indent="  "):
        yield line.replace("\N{NO-BREAK SPACE}", " ")


def _not_assessed(document: CrashDocument) -> Iterator[str]:
    yield ""
    yield from _title("Not assessed")
    for item in document.not_assessed[:_MOST_MISSING]:
        yield from textwrap.wrap(
            f"{item.what}: {item.why}", _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
        )
    if (rest := len(document.not_assessed) - _MOST_MISSING) > 0:
        yield f"  and {rest:,} more; --format json lists them"
    if not document.not_assessed:
        yield "Nothing: everything that this page is made of could be read."
