"""What a contradiction is worth in an image that was taken while the machine ran: was it there, or was it read apart?

Records that contradict each other were read at different moments. Whether they did so at one moment can be told

* if those that contradict each other lie in one page (``Finding.at_once``), whoever else leads to them;
* if all of them were read at one moment, the task that leads to them included: between exact clocks that say the same;
* if nobody changed them between the first reading and the last. Only threads of a process write its VMAs, their
  indices and its counters; a process whose threads all slept from before the first reading on has left them as they
  were. That it slept is known up to the moment at which its threads' own records were read. Of what was read after
  that, it is taken to have slept on if it had slept longer than that is, and something read last says that it had not
  ended;
* of a task, if it was born before the acquisition began and was still there, and asleep, when it was read; or if its
  neighbours on the list were read before it and point at each other.

What others write too (struct page, reverse maps, the slab, lists of tasks) proves nothing on a process alone, but
what contradicts these where the process's own records are also wrong is of that. All else is *torn*: no finding, but
something that could not be assessed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vmaforensics.checks.finding import Confidence, Evidence, ReadApart, Severity
from vmaforensics.checks.reading import Reading, Span, rested, surely
from vmaforensics.views.clocks.bases import SECOND
from vmaforensics.views.clocks.reading_times import TICK
from vmaforensics.views.processes.tasks import PF_EXITING, PF_KTHREAD
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reading import Rest

NEAR = 2 * TICK + 1_000_000  # ns; between exact clocks that say the same

# Who writes a record. What is not named here is written by others too.
_OWN = {View.LIST, View.RBTREE, View.MAPLE, View.VMA, View.COUNTERS, View.ANCHORS, View.PAGE_TABLES}
_TASK = {View.TASKS, View.SOURCES}
_CODE = {View.CODE}  # code and tables that nobody writes while a machine runs; rules on what does change ask for that
_FACTS = {View.VMA, View.FILES}  # what compares no more than these says what is, and no contradiction
_REVERSE = {View.HANDLES}  # others than those who share it leave no trace; a file anyone may map
_FRAMES = {View.PAGES, View.FILES}
_RECLAIM = {"MM-RSS", "MM-PGTABLES"}  # counts that reclaim and khugepaged change too
_COUNTS = {"PTE-ERASED"}  # how often all processes together map a page
_RECLAIMERS = (b"kswapd", b"khugepaged", b"ksmd", b"oom_reaper")  # kernel threads; kcompactd wakes every 500 ms
_FEW = 2  # processes
_FEW_TASKS = 4  # that one record leaves out; a record that leaves out more was torn itself
_MOST = 100  # processes that are told of one by one

# A finding, when its records were read if that is known, and whether its process ran meanwhile or may have.
_Read: TypeAlias = "tuple[Finding, Span | None, bool]"


def weigh_live(context: Context, found: Iterable[Finding]) -> list[Finding]:
    """``found`` without what is torn, which is put on ``context.read_apart``; all of it if the machine stood still."""
    found = list(found)
    acquisition = context.acquisition
    if not acquisition.live:
        return found
    if acquisition.times is None or acquisition.clocks is None:
        kept = [_with_one_page(finding) for finding in found if finding.at_once]
        apart = [finding for finding in found if not finding.at_once and not _is_fact(finding)]
        context.read_apart = _by_process([(finding, None, True) for finding in apart], torn=True)
        return [*kept, *(finding for finding in found if not finding.at_once and _is_fact(finding))]
    reading = Reading(context.views, acquisition.clocks, acquisition.times)
    weigher = _Weigher(context, reading, acquisition.times.begun)
    for finding in found:
        weigher.weigh(finding)
    weigher.corroborate()
    weigher.distrust_lists()
    context.read_apart = [*_by_process(weigher.stood, torn=False), *_by_process(weigher.torn, torn=True)]
    return weigher.kept


class _Weigher:
    """Sorts findings into those that stand and those that are torn."""

    def __init__(self, context: Context, reading: Reading, start: int) -> None:
        self.kept: list[Finding] = []
        self.torn: list[_Read] = []
        self.stood: list[_Read] = []
        self._shared: list[tuple[Finding, Span, Rest]] = []  # of quiet processes, on what others write too
        self._context, self._reading, self._start = context, reading, start

    def weigh(self, finding: Finding) -> None:
        """Decide on a finding, or put it off until it is known which others stand."""
        if _is_fact(finding) or finding.severity is Severity.INFO:
            self.kept.append(finding)
            return
        span = self._reading.span(finding)
        if span is None:
            self.torn.append((finding, None, False))
        elif finding.at_once:
            self.kept.append(_with_one_page(finding))
            self.stood.append((finding, span, finding.mm != 0))
        elif finding.proven:
            note = Evidence(what=finding.proven, view="", address=0)
            self.kept.append(replace(_less_sure(finding), evidence=(*finding.evidence, note)))
            self.stood.append((finding, span, True))
        elif finding.rule.id == "TASK-HIDDEN":
            self._weigh_task(finding, span)
        elif self._reading.lives(finding.mm) and _views(finding) <= _OWN and span.within <= NEAR:
            self.kept.append(finding)
        else:
            rest = self._rest(finding)
            if rest is None or not rested(rest, span, self._start):
                self.torn.append((finding, span, finding.mm != 0))
            elif finding.settled or (_views(finding) <= _OWN | _TASK and finding.rule.id not in _RECLAIM):
                self._stands(finding, rest, span)
            else:
                self._shared.append((finding, span, rest))

    def _stands(self, finding: Finding, rest: Rest, span: Span) -> None:
        self.kept.append(_with_rest(finding, rest, span))
        self.stood.append((finding, span, False))

    def _rest(self, finding: Finding) -> Rest | None:
        if finding.rule.id == "MM-HIDDEN":  # no task says that it uses it
            return self._reading.rest_of_owner(finding.mm)
        return self._reading.rest(finding.mm) if finding.mm else None

    def corroborate(self) -> None:
        """What others write too stands where the process's own records say the same, or two kinds of others do.

        What struct page says of a page that only this process has stands as long as memory is not being reclaimed.
        """
        own = [finding for finding in self.kept if not _is_fact(finding) and finding.severity is not Severity.INFO]
        calm = self._calm()
        doubtful = []
        for finding, span, rest in self._shared:
            if (_of_frames(finding) and calm and self._undisturbed(span)) or self._sharers_rest(finding, span):
                own.append(finding)
                self._stands(finding, rest, span)
            else:
                doubtful.append((finding, span, rest))
        for finding, span, rest in doubtful:
            others = [other for other, _, _ in doubtful if _independent(finding, other)]
            if any(_same_place(finding, other) for other in (*own, *others)):
                self._stands(finding, rest, span)
            else:
                self.torn.append((finding, span, False))

    def _sharers_rest(self, finding: Finding, span: Span) -> bool:
        """Did everybody sleep who shares the file that a record is of?

        Not asked of anonymous memory: a child that has ended was in its trees, and is nowhere any more.
        """
        shared = _views(finding) - _OWN - {View.FILES}
        if not shared or shared - _REVERSE:
            return False
        sharers = self._reading.sharers(finding)
        if sharers is None:
            return False
        rests = [self._reading.rest(mm) for mm in sharers.mms.tolist()]
        whole = self._reading.span_of(sharers.places)
        if whole is None:
            return False
        whole = Span(
            min(span.first, whole.first),
            min(span.began, whole.began),
            max(span.ended, whole.ended),
            max(span.by, whole.by),
            max(span.place, whole.place),
        )
        return all(rest is not None and rested(rest, whole, self._start) for rest in rests)

    def distrust_lists(self) -> None:
        """A list or an index that was torn leaves out many tasks that were on it all the time."""
        listed = self._reading.of_tasks()
        hidden: dict[str, list[Finding]] = {}  # by who knows of them
        for finding in self.kept:
            if finding.rule.id == "TASK-HIDDEN":
                hidden.setdefault(finding.evidence[0].found, []).append(finding)
        for found in hidden.values():
            if len(found) > _FEW_TASKS:
                self.kept = [finding for finding in self.kept if finding not in found]
                self.stood = [row for row in self.stood if row[0].rule.id != "TASK-HIDDEN"]
                self.torn += [(finding, listed, False) for finding in found]

    def _calm(self) -> bool:
        """Is memory not being reclaimed, as far as can be seen? That would hit many processes at once."""
        return len({finding.mm for finding, _, _ in self._shared if _of_frames(finding)}) <= _FEW

    def _undisturbed(self, span: Span) -> bool:
        """Did those sleep that change page tables of others?"""
        sources = self._context.views.sources
        tasks = self._context.views.tasks if sources is None else sources.tasks
        own = (tasks.flags & PF_KTHREAD) != 0
        named = np.array([comm.startswith(_RECLAIMERS) for comm in tasks.comm.tolist()], np.bool_)
        rest = self._reading.rest_of(tasks.task[own & named])
        return rest is not None and rested(rest, span, self._start)

    def _weigh_task(self, finding: Finding, span: Span) -> None:
        """A task is missing from a list only if it was there all the time in which the list was read."""
        sources = self._context.views.sources
        assert sources is not None
        tasks = np.array([item.address for item in finding.evidence if item.view == View.SOURCES.label], np.uint64)
        rows = np.flatnonzero(np.isin(sources.tasks.task, tasks))
        leaving = (sources.tasks.exit_state[rows] != 0) | ((sources.tasks.flags[rows] & PF_EXITING) != 0)
        born = [self._reading.started(task) for task in tasks.tolist()]
        listed, rest = self._reading.of_tasks() or span, self._reading.rest_of(tasks)
        old = all(when is not None and 0 < when < self._start for when in born)
        there = old and not leaving.any()
        leaders = sources.tasks.task[rows[sources.tasks.pid[rows] == sources.tasks.tgid[rows]]]  # the list is of them
        if not leaving.any() and self._reading.passed_over(leaders, young=not old):
            what = "its neighbours on the list point at each other, and that was read before what says that it lives"
            note = Evidence(what=what, view=View.TASKS.label, address=int(tasks[0]))
            self.kept.append(replace(finding, evidence=(*finding.evidence, note)))
            self.stood.append((finding, listed, True))
        elif there and rest is not None and rested(rest, listed, self._start):
            self._stands(finding, rest, listed)
        else:
            self.torn.append((finding, listed, True))


def _views(finding: Finding) -> set[View]:
    """The records that a finding compares; where a rule follows many kinds of links, those of the links in question."""
    named = {item.view for item in finding.evidence}
    if finding.rule.id == "MM-HIDDEN":  # the slab leads to it, but the mm_struct itself says whose it is
        return set(_TASK)
    views = {view for view in finding.rule.views if view.label in named} if finding.rule.id == "VMA-LINK" else set()
    return views or set(finding.rule.views)


def _independent(finding: Finding, other: Finding) -> bool:
    """Do both rest on records of others, but on different ones, and none on what struct page says?"""
    shared, too = _views(finding) - _OWN, _views(other) - _OWN
    hiding = finding.rule.hides and other.rule.hides
    return hiding and bool(shared and too) and not shared & too and not (shared | too) & _FRAMES


def _of_frames(finding: Finding) -> bool:
    """Does it rest on a process's own records and on what struct page says of its pages?"""
    if finding.rule.id in _RECLAIM:
        return True
    return _views(finding) <= _OWN | _FRAMES and finding.rule.id not in _COUNTS


def _is_fact(finding: Finding) -> bool:
    if set(finding.rule.views) == _CODE:
        return True
    return set(finding.rule.views) <= _FACTS and finding.rule.severity.rank >= Severity.LOW.rank


def _with_rest(finding: Finding, rest: Rest, span: Span) -> Finding:
    """``finding`` with how long nothing ran; less sure where that is not known up to the last reading."""
    before = (span.first - rest.ran) / SECOND
    what = f"these records were read within {span.apart / SECOND:.1f} s; its threads last ran {before:.1f} s before"
    known = surely(rest, span)
    if not known:
        what += f", and had slept for {(rest.known - rest.ran) / SECOND:.1f} s when they were read"
    note = Evidence(what=what, view=View.TASKS.label, address=0)
    return replace(finding if known else _less_sure(finding), evidence=(*finding.evidence, note))


def _less_sure(finding: Finding) -> Finding:
    lower = {Confidence.HIGH: Confidence.MEDIUM}.get(finding.confidence, finding.confidence)
    return replace(finding, confidence=lower)


def _with_one_page(finding: Finding) -> Finding:
    what = "the words that contradict each other lie in one page, which was read at one moment"
    return replace(finding, evidence=(*finding.evidence, Evidence(what=what, view="", address=0)))


def _same_place(finding: Finding, other: Finding) -> bool:
    """Do both speak of one place in one address space? What speaks of several may have none of them in common."""
    if (
        finding.mm != other.mm
        or finding.gaps
        or other.gaps
        or None in (finding.start, finding.end, other.start, other.end)
    ):
        return False
    assert finding.start is not None and finding.end is not None
    assert other.start is not None and other.end is not None
    return finding.start < other.end and other.start < finding.end


def _by_process(found: Sequence[_Read], *, torn: bool) -> list[ReadApart]:
    """A row for each process; further ones than can be told of together, as nobody's."""
    by_process: dict[tuple[int, bytes], list[_Read]] = {}
    for read in found:
        whose = read[0].pid, read[0].comm
        by_process.setdefault(whose if whose in by_process or len(by_process) < _MOST else (0, b""), []).append(read)
    return [_row(*whose, rows, torn=torn) for whose, rows in sorted(by_process.items())]


def _row(pid: int, comm: bytes, rows: list[_Read], *, torn: bool) -> ReadApart:
    spans = [span for _, span, _ in rows if span is not None]
    widest = max(spans, key=lambda span: span.apart, default=None)
    return ReadApart(
        pid=pid,
        comm=comm,
        rules=tuple(sorted({finding.rule.id for finding, _, _ in rows})),
        count=len(rows),
        first=widest.began if widest is not None else 0,
        last=widest.ended if widest is not None else 0,
        torn=torn,
        ran=any(ran for _, _, ran in rows),
        findings=tuple(finding for finding, _, _ in rows),
    )
