"""Calls and jumps in the kernel's code that lead where none of its own would (TEXT-PATCHED)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.road.places import CODE, FOREIGN, alike, function, told, whose
from vmaforensics.views.road.code_flow import Way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.road.road import RoadView


def wrong_flow(context: Context, road: RoadView, rule: Rule) -> Iterator[Finding]:
    """A finding for each way; what may be a patch that was under way is low."""
    unsettled = _unsettled(context, road)
    for rows in alike(road.flow.wrong.way, unsettled.astype(np.uint8)):
        severity = Severity.LOW if unsettled[rows[0]] else Severity.HIGH
        yield told(context, rule, rows, partial(_evidence, road), severity)


def _unsettled(context: Context, road: RoadView) -> Bools:
    """Which the kernel may have been about to patch, or were read while it did. It never leads to code of nobody."""
    wrong = road.flow.wrong
    foreign = np.isin(road.owners.of(wrong.target), FOREIGN) & (wrong.way != Way.STOPPED)
    found: Bools = ~foreign & (road.patching or context.acquisition.live)
    return found


def _evidence(road: RoadView, row: int) -> Evidence:
    wrong = road.flow.wrong
    at, target, way = int(wrong.at[row]), int(wrong.target[row]), Way(int(wrong.way[row]))
    return Evidence(
        what=f"{function(road, at)}: {way.text}",
        view=CODE,
        address=at,
        found=f"{target:#x}, {whose(road, target)}" if target else "a breakpoint",
        expected="code of this function, or the beginning of another" if target else "code of this function",
    )
