"""Turns what was read of a crash case into its document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.crash.death import seconds
from vmaforensics.crash.document import (
    Backtrace,
    ComplaintPart,
    CrashDocument,
    CrashSchema,
    DeathPart,
    Frame,
    ImageName,
    Machine,
    Module,
    NotAssessed,
    Registers,
    RunningTask,
    SinceBoot,
    Taint,
)
from vmaforensics.crash.fingerprint import fingerprint, top_functions
from vmaforensics.crash.guard import guarded
from vmaforensics.crash.memory_case import NOT_READ
from vmaforensics.crash.memory_parts import memory_not_assessed, memory_part
from vmaforensics.crash.patterns import INTERRUPTING
from vmaforensics.crash.pointer_parts import fault_part, pointer_part, pointers_part
from vmaforensics.crash.stack_parts import stack_parts
from vmaforensics.crash.taint import taint_letters, taint_words
from vmaforensics.crash.trail.parts import finding_parts, meaning_part, named_parts, word_part
from vmaforensics.crash.trail.word import Trail
from vmaforensics.crash.verdict import verdict
from vmaforensics.crash.wait_parts import wait_part, waits_not_assessed
from vmaforensics.proc.log_document import earlier_part, log_document
from vmaforensics.views.system.modules import STATES
from vmaforensics.words.printable import printable
from vmaforensics.words.times import utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.death import Death
    from vmaforensics.crash.gather import Case
    from vmaforensics.crash.pointers_document import PointersPart
    from vmaforensics.crash.trace import TraceFrame
    from vmaforensics.crash.waits_document import WaitsPart
    from vmaforensics.proc.log_document import EarlierPart
    from vmaforensics.views.log.earlier import EarlierLog
    from vmaforensics.views.system.ending import Ending

_MOST_MODULES = 4096
_MOST_PROBLEMS = 200  # of each part


def build_crash_document(case: Case, *, lines: int, everyone: bool = False) -> CrashDocument:
    """The document of a case, with the last ``lines`` records of the log, and with the stacks of all tasks if asked."""
    died = None if case.death is None else case.death.cpu
    death = None if case.death is None else _death(case, case.death)
    complaints = [_complaint(case, complaint) for complaint in case.complaints.kept]
    count = 0 if case.log is None else len(case.log.records)
    kernel, stacks = case.kernel, case.stacks
    return CrashDocument(
        schema=CrashSchema(),
        image=ImageName(path=printable(str(case.image.path)), format=case.image.format, size=case.image.size),
        verdict=verdict(death, complaints, could_tell=case.ending.panic_cpu is not None),
        death=death,
        machine=_machine(case),
        taint=_taint(case.ending.tainted),
        since_boot=_since_boot(case.ending),
        modules=[_module(case, row) for row in range(min(len(case.modules.modules), _MOST_MODULES))],
        running=list(_running(case)),
        stacks=[]
        if stacks is None
        else guarded(kernel, "stacks", lambda: list(stack_parts(stacks, died, everyone=everyone)), []),
        registers=list(_cpu_registers(case)),
        pointers=guarded(kernel, "registers", lambda: _pointers(case), None),
        waits=guarded(kernel, "waits", lambda: _waits(case), None),
        memory=guarded(kernel, "memory", lambda: memory_part(kernel, case.memory, case.log), None)
        or memory_part(kernel, NOT_READ, None),
        complaints=complaints,
        complaints_left_out=case.complaints.total - len(case.complaints.kept),
        log=[] if case.log is None else log_document(case.log, range(max(0, count - lines), count)).records,
        earlier=[_earlier(earlier, lines) for earlier in case.earlier],
        not_assessed=list(_not_assessed(case)),
    )


def _pointers(case: Case) -> PointersPart | None:
    """What the registers and the stack of who died lead to."""
    return None if case.pointers is None or case.stacks is None else pointers_part(case.pointers, case.stacks.view)


def _earlier(earlier: EarlierLog, lines: int) -> EarlierPart:
    """An earlier kernel's log, with the last ``lines`` records."""
    count = len(earlier.log.records)
    return earlier_part(earlier, range(max(0, count - lines), count))


def _waits(case: Case) -> WaitsPart | None:
    """Who waits for whom."""
    if case.stacks is None or case.locks is None or case.schedule is None:
        return None
    return wait_part(case.kernel, case.stacks, case.locks, case.schedule)


def _death(case: Case, death: Death) -> DeathPart:
    """How it ended, with the task that the CPU ran: by its run queue, else by the log."""
    shown = death.complaint
    on_cpu = [task for task in _running(case) if task.cpu == death.cpu and task.task is not None]
    task = on_cpu[0] if on_cpu else None
    functions = [printable(name) for name in top_functions(_functions(case, death))]
    said = None if shown is None else shown.said
    return DeathPart(
        kind=death.kind,
        how=death.how,
        text=death.text,
        time=None if death.time is None else seconds(death.time),
        cpu=death.cpu,
        pid=task.pid if task is not None else None if said is None else said.pid,
        comm=task.comm if task is not None else None if said is None or said.comm is None else printable(said.comm),
        task=None if task is None else task.task,
        cause=None if death.cause is None else printable(death.cause.title),
        fingerprint=fingerprint(death.kind, functions),
        functions=functions,
        evidence=death.evidence,
        backtraces=list(_backtraces(death)),
        registers=list(_registers(death)),
    )


def _functions(case: Case, death: Death) -> list[str]:
    """What led to it: the trace of the log, or, where it has none, the stack of the CPU that died."""
    if death.complaint is not None and death.complaint.functions:
        return death.complaint.functions
    if case.stacks is None or death.cpu is None:
        return []
    rows = case.stacks.of_cpu(death.cpu)
    return case.stacks.functions(rows[0], from_interrupted=death.kind in INTERRUPTING) if rows else []


def _cpu_registers(case: Case) -> Iterator[Registers]:
    """What the notes of the dump, or those that the crashing kernel left in memory, say of each CPU."""
    if case.stacks is None:
        return
    names = case.kernel.arch.register_words
    for state in case.stacks.view.states:
        if state.words:
            values = {name: hex(value) for name, value in zip(names, state.words, strict=False)}
            yield Registers(cpu=state.cpu, source="the notes of the dump", values=values)


def _backtraces(death: Death) -> Iterator[Backtrace]:
    """The call traces of the log."""
    for name, complaint in (("cause", death.cause), ("panic", death.panic)):
        if complaint is not None and complaint.said.frames:
            frames = [_frame(frame) for frame in complaint.said.frames]
            if complaint.said.place is not None:
                frames.insert(0, _frame(complaint.said.place))
            yield Backtrace(of=name, frames=frames)


def _frame(frame: TraceFrame) -> Frame:
    return Frame(
        name=printable(frame.name),
        offset=frame.offset,
        size=frame.size,
        module=None if frame.module is None else printable(frame.module),
        reliable=not frame.guess,
        interrupted=frame.interrupted,
    )


def _registers(death: Death) -> Iterator[Registers]:
    """Those of kernel mode that the log has."""
    for complaint in (death.cause, death.panic):
        if complaint is not None and complaint.said.registers and complaint.said.cpu is not None:
            values = {name: hex(value) for name, value in complaint.said.registers.items()}
            yield Registers(cpu=complaint.said.cpu, source="the log", values=values)


def _machine(case: Case) -> Machine:
    identity, clock = case.kernel.identity, case.clock
    return Machine(
        release=printable(identity.release),
        banner=printable(identity.banner),
        architecture=case.kernel.arch.name,
        hostname=printable(case.hostname or b""),
        hardware=_text(case.machine.hardware),
        command_line=_text(case.machine.command_line),
        cpus=case.machine.cpus,
        ram=hex(sum(end - start for start, end in case.image.memory.ranges.tolist())),
        booted=None if clock is None else utc(clock.booted // 10**9),
        clock=None if clock is None else utc(clock.now),
        crashed=case.crash_time,
        uptime=None if clock is None else max(0, clock.now - clock.booted // 10**9),
        load=case.machine.load,
    )


def _text(raw: bytes | None) -> str | None:
    return printable(raw) if raw else None


def _taint(mask: int | None) -> Taint:
    if mask is None:
        return Taint(mask=None, letters="", words=[])
    return Taint(mask=hex(mask), letters=taint_letters(mask), words=taint_words(mask))


def _since_boot(ending: Ending) -> SinceBoot:
    printing = None if ending.oops_in_progress is None else ending.oops_in_progress > 0
    return SinceBoot(
        oopses=ending.die_counter,
        warnings=ending.warn_count,
        printing=printing,
        crash_kernel=ending.crash_kernel,
    )


def _module(case: Case, row: int) -> Module:
    modules = case.modules.modules
    return Module(
        name=printable(modules.name_of(row)),
        address=hex(int(modules.module[row])),
        size=int(modules.size[row]),
        state=STATES[int(modules.state[row]) % len(STATES)],
        taint=taint_letters(int(modules.taints[row])),
    )


def _running(case: Case) -> Iterator[RunningTask]:
    """What each CPU ran: all that are online, or all there may be."""
    if (tasks := case.running) is None:
        return
    for row in range(len(tasks)):
        known = bool(tasks.ok[row])
        yield RunningTask(
            cpu=int(tasks.cpu[row]),
            task=hex(int(tasks.task[row])) if known else None,
            pid=int(tasks.pid[row]) if known else None,
            comm=printable(tasks.comm[row].split(b"\0", 1)[0]) if known else None,
        )


def _complaint(case: Case, complaint: Complaint) -> ComplaintPart:
    said, followed = complaint.said, case.followed
    trail = followed.trails.get(complaint.row, Trail())
    ended = case.death is not None and complaint in (case.death.cause, case.death.panic)
    return ComplaintPart(
        kind=complaint.kind,
        time=seconds(complaint.time),
        text=printable(complaint.title),
        cpu=said.cpu,
        pid=said.pid,
        comm=None if said.comm is None else printable(said.comm),
        functions=[printable(name) for name in top_functions(complaint.functions)],
        ended=ended,
        followed=complaint.row in followed.trails,
        words=[word_part(word) for word in trail.words],
        findings=finding_parts(followed.findings.get(complaint.row, ())),
        notes=[printable(note) for note in trail.notes],
        named=named_parts(complaint),
        fault=None if trail.fault is None else fault_part(trail.fault),
        registers=[] if ended else [pointer_part(named.meaning, named.name) for named in trail.registers],
        meaning=meaning_part(complaint.reason),
    )


def _not_assessed(case: Case) -> Iterator[NotAssessed]:
    """What was missing, of the file, of the kernel and of each part."""
    for what, problems in (
        ("image file", [*case.image.problems, *case.image.memory.problems()]),
        ("kernel", case.kernel.identity.problems),
        ("how it ended", () if case.death is None else case.death.doubts),
        ("log", ["not in the image, or its variables are not known"] if case.log is None else case.log.problems),
        ("modules", case.modules.problems),
    ):
        told = list(dict.fromkeys(problems))
        for problem in told[:_MOST_PROBLEMS]:
            yield NotAssessed(what=what, why=printable(problem))
        if len(told) > _MOST_PROBLEMS:
            yield NotAssessed(what=what, why=f"{len(told) - _MOST_PROBLEMS:,} further problems like these")
    if case.log is not None and case.log.overwritten:
        why = f"its first {case.log.overwritten:,} records since boot: newer ones have taken their place"
        yield NotAssessed(what="log", why=why)
    if case.log is not None and case.log.failed:
        yield NotAssessed(what="log", why=f"{case.log.failed:,} records: there was no room for them")
    if case.followed.problem is not None:
        yield NotAssessed(what="records of memory maps", why=printable(case.followed.problem))
    if case.death is None and case.ending.panic_cpu is None:
        yield NotAssessed(what="how it ended", why="panic_cpu is not in the image")
    missing = {
        "tasks on CPUs": case.running is None,
        "taint": case.ending.tainted is None,
        "command line": case.machine.command_line is None,
        "machine": case.machine.hardware is None,
        "load": case.machine.load is None,
        "uptime": case.clock is None,
    }
    for what, gone in missing.items():
        if gone:
            yield NotAssessed(what=what, why="not in the image, or its variable is not known")
    if case.stacks is None:
        yield NotAssessed(what="stacks", why="the list of tasks, or structures of the kernel, are not known")
    else:
        yield from (NotAssessed(what="stacks", why=why) for why in case.stacks.unfinished())
    if case.locks is None or case.schedule is None:
        yield NotAssessed(what="waits", why="stacks, or structures of the kernel, are not known")
    else:
        yield from (NotAssessed(what="waits", why=why) for why in waits_not_assessed(case.locks, case.schedule))
    yield from (NotAssessed(what="memory", why=why) for why in memory_not_assessed(case.memory))
    if case.running is not None and not case.running.ok.all():
        yield NotAssessed(
            what="tasks on CPUs", why=f"those of {int((~case.running.ok).sum())} CPUs are not in the image"
        )
