"""What could not be checked, and why: as prominent as the findings, for it bounds what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.report.document import NotAssessed
from vmaforensics.report.printable import printable
from vmaforensics.views.tables import Problem, View

if TYPE_CHECKING:
    from vmaforensics.analysis import Analysis

_MOST = 200  # rows of problems told; the rest is counted

_LOST = (Problem.UNREADABLE, Problem.CUT_SHORT)


def not_assessed(analysis: Analysis) -> list[NotAssessed]:
    """Problems of the file, of finding the kernel, and of the walks, in that order."""
    rows = [NotAssessed(what="image file", why=printable(text)) for text in analysis.image.problems]
    rows += [NotAssessed(what="image file", why=printable(text)) for text in analysis.image.memory.problems()]
    rows += [NotAssessed(what="kernel", why=printable(text)) for text in analysis.kernel.identity.problems]
    rows += _walks(analysis)
    return rows


def _walks(analysis: Analysis) -> list[NotAssessed]:
    views = analysis.views
    problems = views.problems[np.isin(views.problems["problem"], _LOST)]
    keys = problems[["view", "problem", "mm"]]
    distinct, first, counts = np.unique(keys, return_index=True, return_counts=True)
    pids = views.mm_rows(distinct["mm"]).tolist()
    out = []
    told = list(zip(distinct.tolist(), first.tolist(), counts.tolist(), pids, strict=True))
    for (view, problem, mm), row, count, at in told[:_MOST]:
        where = int(problems["where"][row])
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
        rest = sum(count for _, _, count, _ in told[_MOST:])
        out.append(NotAssessed(what="further records", why="not in the dump or not mapped", count=rest))
    return out
