"""The document of a crash as text for people."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final, NamedTuple

from vmaforensics.crash.frames_text import frame_lines, register_table, stack_owners
from vmaforensics.crash.head_text import ended, head_lines
from vmaforensics.crash.memory_text import memory_lines
from vmaforensics.crash.pointers_text import fault_lines, register_lines, said_lines, stack_lines
from vmaforensics.crash.trail.text import complaint_lines, lead
from vmaforensics.crash.waits_text import wait_lines
from vmaforensics.proc.log import log_lines
from vmaforensics.words.amounts import amount, counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.document import CrashDocument, DeathPart, Module, StackPart
    from vmaforensics.crash.pointers_document import PointersPart

COMPLAINTS: Final = "What the kernel complained of"  # title of a section
_WIDTH: Final = 100
_MOST_COMPLAINTS: Final = 20
_MOST_MODULES: Final = 500
_MOST_MISSING: Final = 100  # things not assessed


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
    lines = [*head_lines(document), *_fault(document), *_complaints(document), *_waits(document), *_trace(document)]
    lines += ["", *_title("Where the memory went"), *memory_lines(document.memory)]
    if document.log:
        lines += ["", *_title("The end of the log")]
        lines += [line for record in document.log for line in log_lines(record).splitlines()]
    return [*lines, *_modules(document.modules), *_not_assessed(document)]


def _title(text: str) -> Iterator[str]:
    yield Title(text)


def _fault(document: CrashDocument) -> Iterator[str]:
    """The address that could not be used, and those that the kernel named."""
    last = ended(document)
    lines = [] if last is None or last.fault is None else list(fault_lines(last.fault, last.words))
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
        yield from frame_lines(backtrace.frames)
    noted = [registers for registers in document.registers if registers.cpu == death.cpu]
    for registers in death.registers[:1] or noted[:1]:
        yield ""
        yield from _title(f"Registers of CPU {registers.cpu}, from {registers.source}")
        yield from register_table(registers)
    if document.pointers is not None:
        yield from _explained(document.pointers)


def _stack(stack: StackPart) -> Iterator[str]:
    """Whose it is, and its frames."""
    yield ""
    yield from _title(stack_owners(stack))
    yield from frame_lines(stack.frames)
    if not stack.whole:
        yield f"    ({stack.end})"
    elif not stack.frames:
        yield "    (in user mode)"


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
