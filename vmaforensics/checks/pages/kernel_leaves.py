"""Words for pages that are mapped in the kernel half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE
from vmaforensics.checks.context import MOST, hull
from vmaforensics.checks.finding import Evidence
from vmaforensics.columns.runs import begins_range, begins_run, run_lasts, run_starts
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.checks.context import Context
    from vmaforensics.views.pages.kernel_half import KernelLeaves

_WORDS = ((ALLOW_USER, "for user mode"), (ALLOW_WRITE, "writable"), (ALLOW_EXECUTE, "executable"))


def entries_text(count: int) -> str:
    """``count`` entries."""
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def leaf_evidence(context: Context, leaves: KernelLeaves, contents: Sequence[str] = ()) -> list[Evidence]:
    """Leaves that lie side by side and allow the same, as ranges: where they lead, what is there.

    ``contents``, if given, is what the first of ``leaves`` hold.
    """
    ends = leaves.va + context.views.arch.span(leaves.level)
    starts = run_starts(begins_range(leaves.va, ends) | begins_run(leaves.owner, leaves.allow))
    lasts = run_lasts(starts, len(leaves))
    found = []
    for first, last in zip(starts[:MOST].tolist(), lasts[:MOST].tolist(), strict=True):
        start, end = int(leaves.va[first]), int(ends[last])
        holds = dict.fromkeys(text for text in contents[first : last + 1] if text)
        found.append(
            Evidence(
                what=f"{start:#x}-{end:#x} ({allowed(int(leaves.allow[first]))}) leads to physical "
                f"{int(leaves.target[first]):#x}" + (f", where there is {', '.join(holds)}" if holds else ""),
                view=View.PAGE_TABLES.label,
                address=int(leaves.where[first]),
                found=f"{int(leaves.entry[first]):#x}",
            )
        )
    if len(starts) > MOST:
        found.append(Evidence(what=f"and {len(starts) - MOST} more like these", view="", address=0))
    return found


def leaf_bounds(context: Context, leaves: KernelLeaves) -> tuple[int, int] | None:
    """The smallest range that holds all of them."""
    ends = leaves.va + context.views.arch.span(leaves.level)
    return hull([(int(leaves.va.min()), int(ends.max()))]) if len(leaves) else None


def leaf_text(context: Context, leaves: KernelLeaves) -> str:
    """How much memory they map, and what any of them allows."""
    arch = context.views.arch
    count = int(arch.pages(arch.span(leaves.level)).sum())
    return f"{context.pages(count)}, {allowed(int(np.bitwise_or.reduce(leaves.allow)))}"


def allowed(allow: int) -> str:
    """ALLOW_* in words."""
    return ", ".join(word for bit, word in _WORDS if allow & bit) or "read-only"
