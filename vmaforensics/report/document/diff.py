"""What is different between two documents of one running machine: processes, regions and findings.

The two are of one boot, so kernel addresses mean the same in both: a process is known by its ``task_struct``, pid
and start time, a region by its ``vm_area_struct`` or, if that is another, by its start, a finding by its id.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from vmaforensics.errors import UsageError
from vmaforensics.report.document.findings import Finding  # noqa: TC001 - msgspec reads the annotation
from vmaforensics.report.document.parts import Part, Region, Seen
from vmaforensics.report.document.persisting import Persisting, persisting

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from vmaforensics.report.document.document import Document
    from vmaforensics.report.document.parts import Process

_CLOCK_DRIFT = 60  # seconds by which the time of boot may seem to move as the clock is set
_PROCESS_FACTS = ("comm", "exe", "parent", "kind", "mm", "shares_with")
_REGION_FACTS = ("start", "end", "perms", "flags", "pgoff", "kind", "name", "dev", "inode", "vma", "readable", "seen")
_FINDING_FACTS = ("severity", "confidence", "title", "start", "end", "lock", "evidence")


class Schema(Part, frozen=True):
    """Which format this is."""

    name: str = "vmaforensics-diff"
    version: str = "1.0"


class Side(Part, frozen=True):
    """One of the two documents."""

    path: str
    sha256: str | None
    clock: str | None  # the kernel's own time when the memory was taken
    processes: int
    regions: int
    findings: int
    not_assessed: int


class Change(Part, frozen=True):
    """One fact that is not what it was."""

    fact: str
    before: str
    after: str


class RegionChange(Part, frozen=True):
    """A region that came, went or changed; ``region`` as it is after, or was before it went."""

    how: Literal["came", "went", "changed"]
    region: Region
    changes: tuple[Change, ...] = ()


class ProcessChange(Part, frozen=True):
    """A process that came, went, or changed, with the regions of it that did.

    ``replaced``: it has another mm, as after execve(2); its regions are not compared, for none is the same.
    """

    how: Literal["came", "went", "changed"]
    pid: int
    comm: str
    task: str
    started: str | None
    regions_before: int
    regions_after: int
    replaced: bool = False
    changes: tuple[Change, ...] = ()
    regions: tuple[RegionChange, ...] = ()


class FindingChange(Part, frozen=True):
    """A finding that came, went or changed; ``finding`` as it is after, or was before it went."""

    how: Literal["came", "went", "changed"]
    finding: Finding
    changes: tuple[Change, ...] = ()


class Difference(Part, frozen=True):
    """Everything that is different, and of two acquisitions of a running machine what is not."""

    schema: Schema
    release: str
    before: Side
    after: Side
    notes: tuple[str, ...]  # what limits the comparison
    findings: tuple[FindingChange, ...]
    processes: tuple[ProcessChange, ...]
    persisting: tuple[Persisting, ...] = ()


def compare(before: Document, after: Document) -> Difference:
    """The difference. Raises :class:`UsageError` if the two are not of one boot of one kernel."""
    notes = _require_same_boot(before, after)
    return Difference(
        schema=Schema(),
        release=after.kernel.release,
        before=_side(before),
        after=_side(after),
        notes=notes,
        findings=tuple(_findings(before, after)),
        processes=tuple(_processes(before, after)),
        persisting=tuple(persisting(before, after)),
    )


def _require_same_boot(before: Document, after: Document) -> tuple[str, ...]:
    """What makes the comparison doubtful. Facts that must be equal on one boot end it."""
    facts: tuple[tuple[str, Callable[[Document], object]], ...] = (
        ("release", lambda document: document.kernel.release),
        ("build id", lambda document: document.kernel.build_id),
        ("KASLR offset", lambda document: document.kernel.kaslr_offset),
        ("phys_base", lambda document: document.kernel.phys_base),
        ("task_struct of pid 1", _first_task),
    )
    unlike = [
        f"{name} {x} and {y}"
        for name, get in facts
        if (x := get(before)) is not None and (y := get(after)) is not None and x != y
    ]
    if unlike:
        raise UsageError(
            f"the two are not of one boot of one machine ({'; '.join(unlike)}), so their kernel addresses cannot be "
            "compared; give two images taken without a reboot between them"
        )
    notes = []
    x, y = before.kernel.booted, after.kernel.booted
    if x is not None and y is not None and abs(_seconds(y) - _seconds(x)) > _CLOCK_DRIFT:
        notes.append(f"the time of boot is {x} in the first and {y} in the second: the clock was set, or they differ")
    x, y = before.kernel.clock, after.kernel.clock
    if x is not None and y is not None and _seconds(y) < _seconds(x):
        notes.append(f"the first was taken at {x}, after the second ({y}): came and went may be exchanged")
    if before.kernel.hostname != after.kernel.hostname:
        x, y = (document.kernel.hostname or "nothing" for document in (before, after))
        notes.append(f"the host was called {x}, then {y}")
    if before.kernel.views != after.kernel.views:
        notes.append("different views were read, so findings may have come or gone for that alone")
    if before.provenance.version != after.provenance.version:
        notes.append(f"made by versions {before.provenance.version} and {after.provenance.version} of this tool")
    if before.not_assessed or after.not_assessed:
        notes.append("something could not be assessed; what seems to have come or gone may have been unreadable")
    return tuple(notes)


def _first_task(document: Document) -> str | None:
    return next((process.task for process in document.processes if process.pid == 1), None)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _side(document: Document) -> Side:
    file = document.provenance.file
    return Side(
        path=file.path,
        sha256=file.sha256,
        clock=document.kernel.clock,
        processes=len(document.processes),
        regions=sum(len(process.regions) for process in document.processes),
        findings=len(document.findings),
        not_assessed=len(document.not_assessed),
    )


def _findings(before: Document, after: Document) -> Iterator[FindingChange]:
    old, new = ({finding.id: finding for finding in document.findings} for document in (before, after))
    for finding in after.findings:
        if finding.id not in old:
            yield FindingChange(how="came", finding=finding)
        elif changes := _changes(old[finding.id], finding, _FINDING_FACTS):
            yield FindingChange(how="changed", finding=finding, changes=changes)
    yield from (FindingChange(how="went", finding=finding) for finding in before.findings if finding.id not in new)


def _processes(before: Document, after: Document) -> Iterator[ProcessChange]:
    """Those of the second document in its order, then those that went."""
    timed = all(process.started is not None for document in (before, after) for process in document.processes)

    def key(process: Process) -> Hashable:
        return (process.pid, process.task, process.started if timed else None)

    old, new = ({key(process): process for process in document.processes} for document in (before, after))
    for at, process in new.items():
        was = old.get(at)
        if was is None:
            yield _whole("came", process)
            continue
        changes = _changes(was, process, _PROCESS_FACTS)
        replaced = was.mm != process.mm
        # A process whose memory another process's list holds has none of its own to compare.
        own = not replaced and was.shares_with == process.shares_with
        regions = tuple(_regions(was.regions, process.regions)) if own else ()
        if changes or regions:
            yield ProcessChange(
                how="changed",
                pid=process.pid,
                comm=process.comm,
                task=process.task,
                started=process.started,
                regions_before=len(was.regions),
                regions_after=len(process.regions),
                replaced=replaced,
                changes=changes,
                regions=regions,
            )
    yield from (_whole("went", process) for at, process in old.items() if at not in new)


def _whole(how: Literal["came", "went"], process: Process) -> ProcessChange:
    count = len(process.regions)
    return ProcessChange(
        how=how,
        pid=process.pid,
        comm=process.comm,
        task=process.task,
        started=process.started,
        regions_before=count if how == "went" else 0,
        regions_after=count if how == "came" else 0,
    )


def _regions(before: list[Region], after: list[Region]) -> list[RegionChange]:
    """By start and ``vm_area_struct``; else by the latter with one bound the same (split, merged, grown), else by
    start alone (replaced). A ``vm_area_struct`` whose bounds are both others is one that was freed and used anew."""
    if before == after:
        return []
    old, new = ({(region.start, region.vma): region for region in regions} for regions in (before, after))
    pairs = [(old.pop(key), new.pop(key)) for key in list(new) if key in old]
    for key in (lambda region: (region.vma, region.end), lambda region: region.start):
        left = {key(region): at for at, region in old.items()}
        for at, region in list(new.items()):
            was = left.pop(key(region), None)
            if was is not None:
                pairs.append((old.pop(was), new.pop(at)))
    found = [RegionChange(how="went", region=region) for region in old.values()]
    found += [RegionChange(how="came", region=region) for region in new.values()]
    found += [
        RegionChange(how="changed", region=region, changes=changes)
        for was, region in pairs
        if was != region and (changes := _changes(was, region, _REGION_FACTS))
    ]
    return sorted(found, key=lambda change: (int(change.region.start, 16), change.how))


def _changes(before: object, after: object, facts: tuple[str, ...]) -> tuple[Change, ...]:
    texts = ((fact, _text(getattr(before, fact)), _text(getattr(after, fact))) for fact in facts)
    return tuple(Change(fact=fact, before=x, after=y) for fact, x, y in texts if x != y)


def _text(value: object) -> str:
    """A fact as text. Of the indices only whether they hold a region: the words that do move with every change."""
    if isinstance(value, Seen):
        slots = {name: getattr(value, name) for name in ("list", "rbtree", "maple")}
        known = {name: slot for name, slot in slots.items() if slot is not msgspec.UNSET}
        return ", ".join(f"{name} {'missing' if slot is None else 'held'}" for name, slot in known.items())
    if isinstance(value, tuple):
        return "; ".join(item.what for item in value)  # evidence
    return "none" if value is None else str(value)
