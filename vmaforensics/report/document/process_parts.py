"""Processes as parts of the document: who they are, what their memory map adds up to, and its regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.vmas.counters import EXACT, Exact, exact_counters, sum_vmas
from vmaforensics.columns.lookup import rows_of, sort_order, values_at
from vmaforensics.report.document.origins import parents, programs, starts
from vmaforensics.report.document.parts import Counter, Process, Thread, ViewSummary
from vmaforensics.report.document.regions import regions_by_mm
from vmaforensics.views.processes.tasks import PF_KTHREAD
from vmaforensics.views.structures.lock import Lock
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from collections.abc import Collection

    from vmaforensics.analysis import Analysis
    from vmaforensics.kernel.machine import Clock
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.view import View


def process_parts(analysis: Analysis, pids: Collection[int] | None, clock: Clock | None) -> list[Process]:
    """Every process, by pid; with ``pids`` those only. Of processes that share an address space the first holds its
    regions."""
    views, tasks = analysis.views, analysis.views.tasks
    leaders = tasks.take(tasks.leader if pids is None else tasks.leader & np.isin(tasks.tgid, list(pids)))
    leaders = _with_memory(leaders.sort_by(leaders.pid, leaders.task), views.mms)
    rows = views.mm_rows(leaders.mm)
    regions = regions_by_mm(views, leaders.mm[rows >= 0])
    maps, threads = _Maps.of(analysis), _threads(tasks)
    origins = zip(
        programs(views, rows),
        parents(analysis.kernel, views, leaders),
        starts(analysis.kernel, clock, leaders),
        strict=True,
    )
    owners: dict[int, int] = {}  # mm: the first process that has it
    parts = []
    for place, ((exe, parent, started), row) in enumerate(zip(origins, rows.tolist(), strict=True)):
        pid, mm = int(leaders.pid[place]), int(leaders.mm[place])
        owner = owners.setdefault(mm, pid) if mm else pid
        is_kernel = bool(leaders.flags[place] & PF_KTHREAD)
        parts.append(
            Process(
                pid=pid,
                comm=printable(comm_of(leaders.comm[place])),
                exe=exe,
                parent=parent,
                started=started,
                kind="user" if mm else "kernel" if is_kernel else "exited",
                task=hex(leaders.task[place]),
                mm=hex(mm) if mm else None,
                lock=Lock(int(views.mms.lock[row])).text if row >= 0 else None,
                shares_with=None if owner == pid else owner,
                threads=tuple(threads.get(pid, ())),
                views=maps.views(row) if row >= 0 else (),
                counters=maps.counters(row) if row >= 0 else (),
                regions=regions.get(mm, []) if row >= 0 and owner == pid else [],
            )
        )
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maps:
    """What indices and counters say of each address space: lists as long as ``views.mms``."""

    held: dict[View, list[int]]  # VMAs in the index
    complete: dict[View, list[bool]]  # the index and its VMAs could be read whole
    stored: Exact[list[int]]  # counters of mm_struct
    summed: Exact[list[int]]  # what the VMAs add up to

    @classmethod
    def of(cls, analysis: Analysis) -> _Maps:
        """Count them."""
        views, context = analysis.views, analysis.context
        mms, sums, stored = views.mms, context.shared(sum_vmas), exact_counters(views.mms)
        held = {}
        for view, entries in views.indices().items():
            known, count = np.unique(entries.mm, return_counts=True)
            held[view] = values_at(count, rows_of(known, mms.mm)).tolist()
        return cls(
            held=held,
            complete={view: context.decoded(view, mms.mm).tolist() for view in held},
            stored=Exact(*(values.tolist() for values in stored)),
            summed=Exact(*(values.tolist() for values in sums.exact)),
        )

    def views(self, row: int) -> tuple[ViewSummary, ...]:
        """What each index holds of the address space in row ``row``."""
        return tuple(
            ViewSummary(view=view.label, regions=held[row], complete=self.complete[view][row])
            for view, held in self.held.items()
        )

    def counters(self, row: int) -> tuple[Counter, ...]:
        """Its counters."""
        columns = zip(EXACT, self.stored, self.summed, strict=True)
        return tuple(Counter(name=name, stored=stored[row], areas=summed[row]) for name, stored, summed in columns)


def _threads(tasks: Tasks) -> dict[int, list[Thread]]:
    """The tasks of each process other than its leader, by its pid."""
    threads: dict[int, list[Thread]] = {}
    others = tasks.take(~tasks.leader)
    columns = (others.tgid.tolist(), others.pid.tolist(), others.comm.tolist(), others.task.tolist())
    for tgid, tid, comm, task in zip(*columns, strict=True):
        threads.setdefault(tgid, []).append(Thread(tid=tid, comm=printable(comm_of(comm)), task=hex(task)))
    return threads


def _with_memory(leaders: Tasks, mms: Mms) -> Tasks:
    """A leader that has exited has no mm, though its threads may go on: give it theirs."""
    order = sort_order(mms.pid)
    mm = values_at(mms.mm[order], rows_of(mms.pid[order], leaders.pid))
    return leaders.replace(mm=np.where(leaders.mm == 0, mm, leaders.mm))
