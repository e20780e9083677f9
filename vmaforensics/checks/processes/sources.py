"""What the rules on tasks and address spaces share: who knows of one, and findings about a process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.views.problems import Problem
from vmaforensics.views.processes.mm_sources import Source
from vmaforensics.views.view import View
from vmaforensics.words.printable import comm_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import U16, U64, Bools
    from vmaforensics.views.processes.mm_sources import SourcesView


def known_to(bits: U16, source: Source) -> Bools:
    """Which of the tasks or mms with these source flags does ``source`` know of?"""
    found: Bools = (bits & np.uint16(source)) != 0
    return found


def parent_copies(context: Context) -> U64:
    """Addresses of tasks that are byte copies of their parents still."""
    operations = context.views.operations
    return np.zeros(0, np.uint64) if operations is None else operations.copies


def whole_sources(context: Context, sources: SourcesView) -> Source:
    """The records that were read whole, the task list included."""
    problems = context.views.problems
    broken = np.isin(problems.problem, (Problem.UNREADABLE, Problem.CUT_SHORT)) & (problems.view == View.TASKS)
    broken &= problems.mm == 0  # with an mm, it is that which could not be read
    return sources.whole & ~Source.TASK_LIST if broken.any() else sources.whole


def about_task(
    context: Context, rule: Rule, task_row: int, mm: int, title: str, evidence: Iterable[Evidence]
) -> Finding:
    """A finding about the process of a task (a row of ``SourcesView.tasks``), which ``mm`` may not lead to."""
    sources = context.views.sources
    assert sources is not None
    tasks = sources.tasks
    finding = context.finding(rule, mm, title, evidence)
    return replace(finding, pid=int(tasks.tgid[task_row]), comm=comm_of(tasks.comm[task_row]))


def mm_evidence(sources: SourcesView, row: int) -> list[Evidence]:
    """Who knows of an mm (a row of ``SourcesView.mms``), and who owns it."""
    mms, known = sources.mms, Source(int(sources.mm_sources[row]))
    mm = int(mms.mm[row])
    last_user = int(sources.last_user[row])
    used = Evidence(
        what="active_mm of a task that is on no CPU and has no mm",
        view=View.SOURCES.label,
        address=last_user,
        found=f"{mm:#x}",
        expected="0x0",
    )
    return [
        Evidence(
            what=f"mm {mm:#x} with {int(mms.map_count[row])} VMAs and {int(mms.users[row])} users "
            f"is known to: {known.label}",
            view=View.SOURCES.label,
            address=mm,
            found=known.label,
            expected=Source.TASK_LIST.label,
        ),
        Evidence(
            what=f"mm->owner of it is {int(sources.owner[row]):#x}",
            view=View.SOURCES.label,
            address=mm,
            found=f"{int(sources.owner[row]):#x}",
        ),
        *([used] if last_user else []),
    ]
