"""VMA-LINK: broken link in the memory map.

*Compared:* nothing: these are pointers of the task list or of an index that a walk could read and not follow. Not a
kernel address, misaligned, impossible tag bits, a cycle, already reached from another address space, an empty slot in
an inner node of a maple tree, an object of a kind that by the allocator's account (`struct page`, slab) does not live
there. A pointer to a page that is not in the dump is no finding but stands under *Not assessed*. What belongs to no
known process is one finding for each record, however often links are broken.

*Guaranteed by:* list and tree code; for maple nodes `mt_mk_node` and `mas_validate_child_slot` (lib/maple_tree.c).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, REINDEXES, Part, Rule, Severity
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.problems import Problems

_BROKEN = (
    Problem.NON_CANONICAL,
    Problem.MISALIGNED,
    Problem.BAD_TAG,
    Problem.CYCLE,
    Problem.SHARED,
    Problem.NULL_CHILD,
    Problem.STALE,
)

RULE = Rule(
    id="VMA-LINK",
    title="broken link in the memory map",
    severity=Severity.HIGH,
    why="A pointer of the list or tree leads nowhere, back into itself or into another address space. Walks stop "
    "or never end there, and what lies behind cannot be seen by them.",
    compares="nothing: the word at the address could be read and not followed. It is no kernel address, misaligned, "
    "has impossible tag bits, leads back into the walk or into another address space, or to memory that the allocator "
    "uses for something else",
    views=(View.TASKS, *INDICES, View.FILE_RMAP, View.ANON_RMAP, View.PAGE_TABLES),
    transient="any change of the map, under the mmap write lock; task lists change under tasklist_lock, which is not "
    "looked at",
    by_hand=("crash: rd -64 ADDRESS", "drgn: hex(prog.read_u64(ADDRESS))"),
    steps=("word", "vma", "index", "tree", "list"),
    found_is_subject=False,  # it leads elsewhere
    part=Part.TRACE,
    rank=420,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """Pointers that a walk could read and not follow, view by view."""
    problems = context.views.problems
    # Of VMAs that no index leads to, anything may stand for the mm.
    known = context.views.mm_rows(problems.mm) >= 0
    problems = problems.replace(mm=np.where(known, problems.mm, np.uint64(0)))
    broken = np.isin(problems.problem, _BROKEN)
    for view in View:
        yield from _of_view(context, view, problems.take(broken & (problems.view == view)))


def _of_view(context: Context, view: View, problems: Problems) -> Iterator[Finding]:
    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"{view.label}: {Problem(int(problems.problem[row])).text}",
            view=view.label,
            address=int(problems.where[row]),
            found=f"{int(problems.value[row]):#x}",
        )

    def title(row: int) -> str:
        where, why = int(problems.where[row]), Problem(int(problems.problem[row])).text
        value = int(problems.value[row])
        at = "" if where == value else f" at {where:#x}"  # of some pointers it is not known where they stand
        return f"a link of the {view.label}{at} cannot be followed: {why} ({value:#x})"

    found = context.per_mm(
        RULE, problems.mm, evidence, title, lambda row: context.vma_holding(int(problems.where[row]))
    )
    for finding in found:
        unlisted = int((problems.count[problems.mm == np.uint64(finding.mm)] - 1).sum())
        more = Evidence(what=f"and {unlisted} more that were only counted", view="", address=0)
        yield replace(finding, evidence=(*finding.evidence, more)) if unlisted else finding
