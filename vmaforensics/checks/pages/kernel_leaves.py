"""Words for pages that are mapped in the kernel half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER
from vmaforensics.checks.finding import Evidence
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64
    from vmaforensics.views.pages.kernel_half import KernelLeaves


def entries_text(count: int) -> str:
    """``count`` entries."""
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def leaf_evidence(context: Context, leaves: KernelLeaves, contents: Sequence[str], row: int) -> Evidence:
    """One leaf entry: where it leads, what it allows, what is there."""
    size = int(context.views.arch.span(leaves.level[row : row + 1])[0])
    looks = contents[row] if row < len(contents) else ""
    return Evidence(
        what=leaves.words(row, size) + (f", which holds {looks}" if looks else ""),
        view=View.PAGE_TABLES.label,
        address=int(leaves.where[row]),
        found=f"{int(leaves.entry[row]):#x}",
    )


def leaf_text(context: Context, leaves: KernelLeaves, rows: I64) -> str:
    """How much memory the leaves ``rows`` map, and for whom."""
    arch = context.views.arch
    count = int(arch.pages(arch.span(leaves.level[rows])).sum())
    allow = int(np.bitwise_or.reduce(leaves.allow[rows]))
    words = [word for bit, word in ((ALLOW_USER, "for user mode"), (ALLOW_EXECUTE, "executable")) if allow & bit]
    return f"{context.pages(count)}{' ' if words else ''}{', '.join(words)}"
