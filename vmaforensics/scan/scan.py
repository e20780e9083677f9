"""A scan of an image: which memory, with which rules, and what was found, each place once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.compare.known_regions import known_regions
from vmaforensics.progress import unheard
from vmaforensics.scan.document import (
    NotScanned,
    PlaceStrings,
    RuleFile,
    ScanFinding,
    ScanMatch,
    ScannedAmount,
    ScanPart,
)
from vmaforensics.scan.names import Names
from vmaforensics.scan.places import (
    PlaceKind,
    PlacePages,
    file_pages,
    frame_pages_of,
    free_pages_of,
    mapped_pages_of,
    region_pages_of,
    taskless_pages,
)
from vmaforensics.scan.plan import make_plan
from vmaforensics.scan.pool import scan_plan
from vmaforensics.scan.worker import Settings
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.progress import Progress
    from vmaforensics.scan.plan import PlanPages, Stretches
    from vmaforensics.scan.rules import CompiledRules
    from vmaforensics.scan.worker import Hit, RuleHits, Scanned
    from vmaforensics.views.views import Views

MOST_FINDINGS = 10_000
_MOST_MATCHES = 64  # told of one finding
_MOST_STRINGS = 1 << 20  # strings told of all
_MOST_PROBLEMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to scan for, where, and within which bounds."""

    rules: CompiledRules | None = None
    kinds: Collection[PlaceKind] = tuple(PlaceKind)
    pids: Collection[int] | None = None  # None: of every process
    jobs: int = 1
    settings: Settings = field(default_factory=Settings)


def scan_image(kernel: Kernel, views: Views, request: Request, progress: Progress = unheard) -> ScanPart:
    """Scan the memory that ``request`` names."""
    regions = known_regions(views)
    mapped = mapped_pages_of(kernel, views, regions)
    progress("plan")
    parts, problems = _parts(kernel, views, request)
    if mapped.left_out:
        what = f"{mapped.left_out} entries of huge pages"
        problems.append(NotScanned(what=what, why="together they map far more than the image holds"))
    of_processes = region_pages_of(kernel, mapped)
    if request.pids is not None:
        mm_rows = np.flatnonzero(np.isin(views.mms.pid, np.array(sorted(request.pids), np.int64)))
        of_processes = of_processes.take(np.isin(mapped.mm_row, mm_rows))
    if PlaceKind.REGION in request.kinds:
        parts.append(of_processes)
    if request.pids is None:
        if PlaceKind.TASKLESS in request.kinds:
            parts.append(taskless_pages(kernel, views))
        frames = frame_pages_of(views, mapped)
        parts.append(frames.take(np.isin(frames.kind, np.array([*request.kinds], np.uint8))))
    free = free_pages_of(views) if PlaceKind.FREE in request.kinds and request.pids is None else ()
    collector = _Collector(kernel, Names(kernel, views, regions, mapped), problems)
    for some in chain([parts], ([more] for more in free)):
        stretches, pages, shared = make_plan(some)
        collector.plan(stretches, pages, shared)
        for found in scan_plan(kernel, stretches, pages, request.settings, request.jobs, progress):
            collector.take(found, strings=bool(request.settings.strings))
    return collector.part(request)


def _parts(kernel: Kernel, views: Views, request: Request) -> tuple[list[PlacePages], list[NotScanned]]:
    """The page cache, which goes first, and what cannot be scanned at all."""
    problems = []
    if views.page_tables is None:
        problems.append(NotScanned(what="memory of processes", why="the page tables could not be read"))
    if views.frames is None:
        problems.append(NotScanned(what="frames without an owner, free ones", why="frames could not be accounted for"))
    wanted = PlaceKind.FILE in request.kinds and request.pids is None
    return ([file_pages(kernel, views)] if wanted else []), problems


class _Collector:
    """Makes findings of hits. A place that a rule has already been told to match is not told again."""

    def __init__(self, kernel: Kernel, names: Names, problems: list[NotScanned]) -> None:
        self._arch, self._names = kernel.arch, names
        self._problems, self._more_problems = problems, 0
        self._findings: list[ScanFinding] = []
        self._more = 0
        self._strings: list[PlaceStrings] = []
        self._told = 0
        self._seen: set[tuple[str, str, str, int, int]] = set()
        self._shared = 0
        # By kind: stretches, their pages, and those of these that are not in the image.
        self._many, self._count, self._missing = np.zeros((3, len(PlaceKind)), np.int64)

    def plan(self, stretches: Stretches, pages: PlanPages, shared: int) -> None:
        """What is taken from now on was found in these; ``shared`` pages of theirs are not scanned again."""
        self._stretches, self._pages = stretches, pages
        self._shared += shared
        np.add.at(self._many, stretches.kind, 1)
        np.add.at(self._count, stretches.kind, stretches.count)

    def take(self, found: Scanned, *, strings: bool) -> None:
        """What was found in one stretch."""
        kind = PlaceKind(int(self._stretches.kind[found.stretch]))
        self._missing[kind] += found.missing
        if found.problem:
            if len(self._problems) < _MOST_PROBLEMS:
                place = self._names.place(kind, *self._where(found.stretch))
                self._problems.append(NotScanned(what=place, why=printable(found.problem)))
            else:
                self._more_problems += 1
        for rule in found.rules:
            self._rule(found.stretch, kind, rule)
        if strings:
            self._take_strings(found, kind)

    def _where(self, stretch: int) -> tuple[int, int]:
        """Owner of a stretch and its first byte there."""
        return int(self._stretches.owner[stretch]), int(self._stretches.at[stretch]) << self._arch.page_shift

    def _held(self, first: int, hit: Hit) -> tuple[int, int] | None:
        """Frame and place in it of the first byte of a match that lies in a page; None if all of it is in a gap.

        ``first`` is the row of the first page that was scanned.
        """
        shift = self._arch.page_shift
        low, high = first + (hit.offset >> shift), first + ((hit.offset + max(hit.length, 1) - 1) >> shift)
        held = np.flatnonzero(self._pages.held[low : high + 1])
        if not len(held):
            return None
        inside = 0 if held[0] else hit.offset & (self._arch.page_size - 1)
        return int(self._pages.pfn[low + int(held[0])]), inside

    def _rule(self, stretch: int, kind: PlaceKind, rule: RuleHits) -> None:
        fresh: list[tuple[Hit, int, int]] = []  # with the frame and the place in it
        first, shift = int(self._stretches.first[stretch]), self._arch.page_shift
        for hit in rule.hits:
            place = self._held(first, hit)
            if place is None:
                continue  # zeros that stand for pages which are not there
            pfn, inside = place
            key = (rule.namespace, rule.rule, hit.pattern, pfn << shift | inside, hit.length)
            if key not in self._seen:
                self._seen.add(key)
                fresh.append((hit, pfn, inside))
        if rule.hits and not fresh:
            return
        if len(self._findings) >= MOST_FINDINGS:
            self._more += 1
            return
        owner, start = self._where(stretch)
        pfn, inside = (fresh[0][1], fresh[0][2]) if fresh else (int(self._pages.pfn[first]), 0)
        owners, more = self._names.owners(pfn, inside)
        mapping = owner % (1 << 64) if kind is PlaceKind.FILE else None
        name = f"{rule.namespace}:{rule.rule}:{pfn << shift | inside:x}"
        self._findings.append(
            ScanFinding(
                id=hashlib.sha256(name.encode()).hexdigest()[:12],
                rule=printable(rule.rule),
                namespace=printable(rule.namespace),
                tags=tuple(printable(tag) for tag in rule.tags),
                meta={printable(key): _meta(value) for key, value in rule.meta},
                where=kind.label,
                place=self._names.place(kind, owner, start),
                file=None if mapping is None else hex(mapping),
                holders=() if mapping is None else self._names.holders(mapping),
                start=hex(start),
                size=int(self._stretches.count[stretch]) << shift,
                matches=tuple(
                    ScanMatch(
                        pattern=printable(hit.pattern),
                        offset=hit.offset,
                        physical=hex(frame << shift | at),
                        length=hit.length,
                        data=hit.data.hex(),
                        text=printable(hit.data.decode("latin-1")),
                    )
                    for hit, frame, at in fresh[:_MOST_MATCHES]
                ),
                more_matches=max(len(fresh) - _MOST_MATCHES, 0),
                owners=owners,
                more_owners=more,
            )
        )

    def _take_strings(self, found: Scanned, kind: PlaceKind) -> None:
        owner, start = self._where(found.stretch)
        room = max(_MOST_STRINGS - self._told, 0)
        self._told += len(found.strings)
        self._strings.append(
            PlaceStrings(
                where=kind.label,
                place=self._names.place(kind, owner, start),
                pid=self._names.pid(kind, owner),
                start=hex(start),
                size=int(self._stretches.count[found.stretch]) << self._arch.page_shift,
                missing=found.missing,
                entropy=round(found.entropy, 3),
                strings=tuple((hex(start + at), code, printable(text)) for at, code, text in found.strings[:room]),
                more_strings=found.more_strings + max(len(found.strings) - room, 0),
            )
        )

    def part(self, request: Request) -> ScanPart:
        """The document's part."""
        if self._more_problems:
            self._problems.append(NotScanned(what=f"{self._more_problems} more places", why="for reasons as above"))
        amounts = []
        for kind in PlaceKind:
            many, count, missing = (int(each[kind]) for each in (self._many, self._count, self._missing))
            if many:
                amounts.append(
                    ScannedAmount(
                        where=kind.label,
                        stretches=many,
                        bytes=count - missing << self._arch.page_shift,
                        missing=missing,
                    )
                )
        files = request.rules.files if request.rules is not None else ()
        return ScanPart(
            rules=tuple(RuleFile(path=path, sha256=sha256) for path, sha256 in files),
            findings=self._findings,
            more_findings=self._more,
            scanned=tuple(amounts),
            shared_pages=self._shared,
            strings=self._strings,
            not_scanned=self._problems,
        )


def _meta(value: object) -> str | int | float | bool:
    """A value of a rule's meta section."""
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    return printable(value if isinstance(value, bytes | str) else str(value))
