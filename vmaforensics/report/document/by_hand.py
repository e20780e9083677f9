"""Lines to type into drgn, crash and volshell to see the words of one finding again, with its own addresses.

The general form of each check is in its rule (``vmaforensics explain``). drgn's lines are for its own prompt with a
vmlinux of the kernel, crash's for release 9 or later, volshell's for ``volshell -l`` of volatility3.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of
from vmaforensics.report.document.findings import HandCheck
from vmaforensics.report.document.hand_lines import BEGIN, STEPS, TOOLS
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.report.document.subjects import Subject
    from vmaforensics.views.views import Views

MOST = 1000  # findings that get lines, the most severe first

_NODE = 256  # bytes of a maple_node, and what it is aligned to (MAPLE_NODE_MASK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the lines are filled in with; a line that needs what is None is left out."""

    pid: int | None  # of a process on the task list
    task: int | None  # a task_struct
    mm: int | None
    vma: int | None
    at: int | None  # the first user address
    tree: int | None  # the mm_struct, if it has a maple tree
    head: int | None  # mm->mmap, if there is a list
    head_of: int | None  # the mm_struct, if there is a list, and so a red-black tree
    node: int | None  # a maple_node
    word: int | None  # a word of kernel memory that is evidence
    entry: int | None  # physical address of a page-table entry
    frame: int | None  # physical address of a page
    chain: int | None  # &vma->anon_vma_chain
    file: int | None  # vma->vm_file, if it has one


def hand_checks(facts: Facts, rule: Rule) -> tuple[HandCheck, ...]:
    """The lines for a finding of ``rule``, of each tool that has any; no line twice."""
    values = {field.name: getattr(facts, field.name) for field in fields(facts)}
    known = {name: value for name, value in values.items() if value is not None}
    checks = []
    for tool in TOOLS:
        lines: dict[str, None] = {}
        for step in rule.steps:
            lines |= dict.fromkeys(_filled(STEPS[step].get(tool, ()), known))
        if lines:
            checks.append(HandCheck(tool=tool, lines=(*BEGIN[tool], *lines)))
    return tuple(checks)


def _filled(lines: tuple[str, ...], known: dict[str, int]) -> list[str]:
    """The lines with what they need; the first names an object that the others may use, so all go without it."""
    filled = []
    for number, line in enumerate(lines):
        try:
            filled.append(line.format(**known))
        except KeyError:
            if number == 0:
                return []
    return filled


class FactFinder:
    """Looks up what lines about a finding are filled in with."""

    def __init__(self, kernel: Kernel, views: Views) -> None:
        tasks = views.tasks
        known_tasks = [tasks.task] if views.sources is None else [tasks.task, views.sources.tasks.task]
        leaders = tasks.take(tasks.leader)
        self._views = views
        self._nodes = np.sort(views.maple_nodes.address)
        self._tasks = distinct(np.concatenate(known_tasks))
        self._pids = set(tasks.tgid.tolist())
        self._leader = dict(zip(leaders.tgid.tolist(), leaders.task.tolist(), strict=True))
        chain = "anon_vma_chain"  # which damaged types may not have
        self._chain = kernel.offset("vm_area_struct", chain) if kernel.has("vm_area_struct", chain) else None

    def facts(self, finding: Finding, subject: Subject) -> Facts:
        """What is known of a finding and of the VMAs it is about."""
        views = self._views
        row = int(views.mm_rows(np.array([finding.mm], np.uint64))[0]) if finding.mm else -1
        mm = finding.mm if row >= 0 else None
        vma = subject.vma
        placed = [item for item in finding.evidence if 0 <= item.address < 1 << 64]
        words = [item.address for item in placed]
        nodes = [item.address & -_NODE for item in placed if item.view == View.MAPLE.label]
        return Facts(
            pid=finding.pid if finding.pid in self._pids and finding.pid else None,
            task=_first_in(self._tasks, words) or self._leader.get(finding.pid),
            mm=mm,
            vma=vma,
            at=finding.start if finding.mm else None,
            tree=mm if views.maple is not None else None,
            head=(int(views.mms.mmap[row]) or None) if row >= 0 and views.vma_list is not None else None,
            head_of=mm if views.vma_list is not None else None,
            node=_first_in(self._nodes, nodes),
            word=_place(views.arch, finding, lambda view: view not in (View.COUNTERS.label, "lock"), kernel=True),
            entry=_place(views.arch, finding, lambda view: view == View.PAGE_TABLES.label, kernel=False),
            frame=_place(views.arch, finding, lambda view: view == View.PAGES.label, kernel=False),
            chain=None if vma is None or self._chain is None else vma + self._chain,
            file=int(subject.vmas.file[0]) or None if vma is not None else None,
        )


def _first_in(known: U64, addresses: list[int]) -> int | None:
    """The first of ``addresses`` that is among the ascending ``known``."""
    found = rows_of(known, np.array(addresses, np.uint64)) >= 0
    return next((address for address, hit in zip(addresses, found.tolist(), strict=True) if hit), None)


def _place(arch: Architecture, finding: Finding, fits: Callable[[str], bool], *, kernel: bool) -> int | None:
    """Address of the first evidence that ``fits`` by its view, and is a kernel address or a physical one.

    A word that was never an address of the kernel is no place to look at.
    """
    for item in finding.evidence:
        if not 0 < item.address < 1 << 64 or not fits(item.view):
            continue
        if bool(arch.kernel_pointer(np.array([item.address], np.uint64))[0]) == kernel:
            return item.address
    return None
