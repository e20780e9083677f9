"""Everything that the first page of a crash case needs, read from the image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from vmaforensics.crash.complaints import Complaints, read_complaints
from vmaforensics.crash.death import Signs, find_death
from vmaforensics.crash.guard import guarded
from vmaforensics.crash.memory_case import NOT_READ, read_memory_case
from vmaforensics.crash.pointers import gather_pointers
from vmaforensics.crash.quiet import crash_time_of
from vmaforensics.crash.stack_parts import CaseStacks
from vmaforensics.crash.trail.case import Followed, follow_case, follow_in
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.machine import hostname, read_clock
from vmaforensics.views.locks.gather import gather_locks
from vmaforensics.views.log.earlier import read_earlier
from vmaforensics.views.log.log import read_log
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.tasks import walk_tasks
from vmaforensics.views.stacks.stacks import gather_stacks
from vmaforensics.views.system.ending import read_ending
from vmaforensics.views.system.machine_facts import read_machine_facts
from vmaforensics.views.system.modules import ModuleList, Modules, read_modules
from vmaforensics.views.system.running import read_running
from vmaforensics.views.system.scheduling import read_schedule

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vmaforensics.checks.finding import Finding
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.death import Death
    from vmaforensics.crash.memory_case import MemoryCase
    from vmaforensics.crash.pointers import Pointers
    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.machine import Clock
    from vmaforensics.progress import Progress
    from vmaforensics.views.locks.gather import LocksView
    from vmaforensics.views.log.earlier import EarlierLog
    from vmaforensics.views.log.records import Log
    from vmaforensics.views.system.ending import Ending
    from vmaforensics.views.system.machine_facts import MachineFacts
    from vmaforensics.views.system.running import RunningTasks
    from vmaforensics.views.system.scheduling import Schedule
    from vmaforensics.views.views import Views

PARTS: Final = ("log", "stacks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What was read. None: it could not be."""

    image: Image
    kernel: Kernel
    log: Log | None
    complaints: Complaints
    ending: Ending
    death: Death | None
    crash_time: str | None  # CRASHTIME of VMCOREINFO
    running: RunningTasks | None
    modules: ModuleList
    machine: MachineFacts
    clock: Clock | None
    hostname: bytes | None
    stacks: CaseStacks | None
    locks: LocksView | None  # as stacks
    schedule: Schedule | None  # as stacks
    pointers: Pointers | None  # as stacks; None too where nothing died
    memory: MemoryCase
    earlier: list[EarlierLog] = field(default_factory=list)  # what earlier kernels left
    followed: Followed = field(default_factory=Followed)  # what complaints lead to

    def urgent(self) -> list[Complaint]:
        """The complaints, with that first which led to the end, or else to the panic."""
        ended = [] if self.death is None else [self.death.cause, self.death.panic]
        first = [complaint for complaint in ended if complaint is not None]
        return first + [complaint for complaint in self.complaints.kept if complaint not in first]


def gather_case(image: Image, kernel: Kernel, progress: Progress, parts: Collection[str] = PARTS) -> Case:
    """Read the case of the kernel of ``image``; ``parts`` says which of those that are large are read."""
    progress("stacks")
    stacks = guarded(kernel, "stacks", lambda: gather_case_stacks(image, kernel), None) if "stacks" in parts else None
    progress("log")
    log = guarded(kernel, "log", lambda: read_log(kernel), None) if "log" in parts else None
    complaints = guarded(kernel, "complaints", lambda: _complaints(kernel, log), Complaints([], 0))
    ending = read_ending(kernel)
    crash_time = crash_time_of(kernel)
    signs = Signs(
        ending=ending,
        crash_time=crash_time,
        complaints=complaints.kept,
        has_log=log is not None,
        ending_cpu=None if stacks is None else stacks.ending_cpu(),
    )
    death = find_death(signs)
    locks, schedule = guarded(kernel, "waits", lambda: _waits(kernel, stacks), (None, None))
    progress("registers")
    return Case(
        image=image,
        kernel=kernel,
        log=log,
        complaints=complaints,
        ending=ending,
        death=death,
        crash_time=crash_time,
        running=guarded(kernel, "tasks on CPUs", lambda: read_running(kernel), None),
        modules=guarded(kernel, "modules", lambda: read_modules(kernel), ModuleList(Modules.zeros(0), ())),
        machine=read_machine_facts(kernel),
        clock=guarded(kernel, "clock", lambda: read_clock(kernel), None),
        hostname=hostname(kernel),
        stacks=stacks,
        locks=locks,
        schedule=schedule,
        memory=guarded(
            kernel, "memory", lambda: read_memory_case(kernel, None if stacks is None else stacks.tasks), NOT_READ
        ),
        earlier=guarded(kernel, "earlier logs", lambda: read_earlier(kernel), []),
        pointers=guarded(kernel, "registers", lambda: _pointers(kernel, stacks, death, complaints), None),
    )


def _complaints(kernel: Kernel, log: Log | None) -> Complaints:
    return Complaints([], 0) if log is None else read_complaints(log, kernel.arch.printed_registers)


def follow_complaints(case: Case, progress: Progress) -> Case:
    """The case with what its complaints lead to; reads the records of memory maps, if a complaint may concern them."""
    return replace(case, followed=follow_case(case.image, case.kernel, case.urgent(), progress))


def follow_with(case: Case, views: Views, findings: Sequence[Finding]) -> Case:
    """The same, with views that have been read and the ``findings`` about them."""
    return replace(case, followed=follow_in(case.kernel, views, findings, case.urgent()))


def gather_case_stacks(image: Image, kernel: Kernel) -> CaseStacks | None:
    """The stacks of every task; None where the kernel has no list of tasks, or structures that are not known."""
    try:
        tasks = walk_tasks(kernel, ProblemLog())
        return CaseStacks(view=gather_stacks(kernel, tasks, image.cpus), tasks=tasks)
    except KernelNotFoundError:
        return None


def _pointers(
    kernel: Kernel, stacks: CaseStacks | None, death: Death | None, complaints: Complaints
) -> Pointers | None:
    """What registers and stack lead to; None where nothing died, or the types lack what that takes."""
    try:
        return gather_pointers(kernel, stacks, death, complaints.kept)
    except KernelNotFoundError as error:
        kernel.identity.problems.append(f"{error}: what the registers lead to is not looked at")
        return None


def _waits(kernel: Kernel, stacks: CaseStacks | None) -> tuple[LocksView | None, Schedule | None]:
    """Who waits for whom, and what waits to run; None as :func:`gather_case_stacks`."""
    if stacks is None:
        return None, None
    try:
        return gather_locks(kernel, stacks.tasks, stacks.view), read_schedule(kernel, stacks.tasks.task)
    except KernelNotFoundError:
        return None, None
