"""What the walks could not follow though it was readable: broken links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.finding import Evidence
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

_BROKEN = (
    Problem.NON_CANONICAL,
    Problem.MISALIGNED,
    Problem.BAD_TAG,
    Problem.CYCLE,
    Problem.SHARED,
    Problem.NULL_CHILD,
)


def check_links(context: Context) -> Iterator[Finding]:
    """VMA-LINK for pointers of the index views and the task list, MT-RESERVED for failed forks."""
    problems = context.views.problems
    for view in View:
        rows = problems[(problems["view"] == view) & np.isin(problems["problem"], _BROKEN)]

        def evidence(row: int, view: View = view, rows: np.ndarray = rows) -> Evidence:
            one = rows[row]
            return Evidence(
                what=f"{view.label}: {Problem(int(one['problem'])).text}",
                view=view.label,
                address=int(one["where"]),
                found=f"{int(one['value']):#x}",
            )

        def title(row: int, view: View = view, rows: np.ndarray = rows) -> str:
            one = rows[row]
            return (
                f"the {view.label} is broken at {int(one['where']):#x}: {Problem(int(one['problem'])).text} "
                f"({int(one['value']):#x})"
            )

        def bounds(row: int, rows: np.ndarray = rows) -> tuple[int, int] | None:
            return context.area_holding(int(rows[row]["where"]))

        yield from context.per_mm(rules.LINK, rows["mm"], evidence, title, bounds)
    forks = problems[problems["problem"] == Problem.RESERVED]
    yield from context.per_mm(
        rules.FAILED_FORK,
        forks["mm"],
        lambda row: Evidence(
            what="a reserved entry stands where an area would",
            view=View.MAPLE.label,
            address=int(forks["where"][row]),
            found=f"{int(forks['value'][row]):#x}",
        ),
        lambda row: "the maple tree carries the mark of a failed fork",
    )
