"""What could not be checked, and why: as prominent as the findings, for it bounds what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.report.document.document import NotAssessed
from vmaforensics.views.descriptors.content import Content
from vmaforensics.views.pages.text_match import Match
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.analysis import Analysis

_MOST = 200  # rows of problems told; the rest is counted

_LOST = (Problem.UNREADABLE, Problem.CUT_SHORT)


def not_assessed(analysis: Analysis) -> list[NotAssessed]:
    """Problems of the file, of finding the kernel, and of the walks, and contents that a rule needs, in that order."""
    rows = [NotAssessed(what="image file", why=printable(text)) for text in analysis.image.problems]
    rows += [NotAssessed(what="image file", why=printable(text)) for text in analysis.image.memory.problems()]
    rows += [NotAssessed(what="kernel", why=printable(text)) for text in analysis.kernel.identity.problems]
    rows += _walks(analysis)
    rows += [NotAssessed(what=what, why=why, count=count) for what, count, why in _contents(analysis) if count]
    return rows


def _contents(analysis: Analysis) -> Iterator[tuple[str, int, str]]:
    """(what, how many, why): rules that look into pages, where the image does not hold these. Once for an image."""
    views = analysis.views
    if views.text is not None:
        match = views.text.pages.match
        for state, why in (
            (Match.NOT_IN_DUMP, "their contents, or those of the page cache, are not in the image"),
            (Match.NOT_CACHED, "the page cache has no such page any more"),
            (Match.NOT_INDEXED, "the index of the page cache is not in the image"),
            (Match.NOT_COMPARED, "there are more than are compared"),
        ):
            count = int((match == state).sum())
            yield (
                "modified code (TEXT-MODIFIED)",
                count,
                f"{counted(count, 'page')} in executable areas of files: {why}",
            )
        count = views.text.unindexed
        why = "by their own account their file's: the index of its page cache is not in the image"
        yield "modified code (TEXT-MODIFIED)", count, f"{counted(count, 'page')} {why}"
    view = views.page_tables
    if view is not None and len(view.orphans):
        states = view.ptes["state"][view.orphans[: len(view.contents)]].tolist()
        lost = sum(not text for text, one in zip(view.contents, states, strict=True) if one == PteState.PRESENT)
        lost += len(view.orphans) - len(view.contents)
        why = f"{counted(lost, 'page')}: not in the image, or more than are looked at"
        yield "contents of pages outside every area (PTE-ORPHAN)", lost, why
    handles = views.handles
    if handles is not None:
        files = handles.memory_files
        idle = (files["internal"] | (files["nlink"] == 0)) & ~files["mapped"]
        for content, why in (
            (Content.NOT_IN_DUMP, "their first page is not in the image"),
            (Content.NONE, "they have no page in memory, but in swap"),
        ):
            lost = int((idle & (files["content"] == content)).sum())
            yield "code in unmapped memory files (MEM-UNMAPPED-CODE)", lost, f"{counted(lost, 'file')}: {why}"


def _walks(analysis: Analysis) -> list[NotAssessed]:
    views = analysis.views
    problems = views.problems.take(np.isin(views.problems.problem, _LOST))
    problems = problems.sort_by(problems.view, problems.problem, problems.mm)
    first = run_starts(begins_run(problems.view, problems.problem, problems.mm))
    counts = (run_lasts(first, len(problems)) - first + 1).tolist()
    pids = views.mm_rows(problems.mm[first]).tolist()
    out = []
    told = list(zip(first.tolist(), counts, pids, strict=True))
    for row, count, at in told[:_MOST]:
        view, problem, mm = int(problems.view[row]), int(problems.problem[row]), int(problems.mm[row])
        where = int(problems.where[row])
        label, text = View(view).label, Problem(problem).text
        more = "" if count == 1 else f" (and {count - 1} more)"
        out.append(
            NotAssessed(
                what=f"{label} of the address space {mm:#x}" if mm else label,
                why=f"{where:#x}{more}: {text}",
                pid=int(views.mms["pid"][at]) if at >= 0 else None,
                count=count,
            )
        )
    if len(told) > _MOST:
        rest = sum(count for _, count, _ in told[_MOST:])
        out.append(NotAssessed(what="further records", why="not in the dump or not mapped", count=rest))
    return out
