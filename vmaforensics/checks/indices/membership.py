"""The list against the red-black tree: an area must be in both (validate_mm of mm/mmap.c, up to 6.0)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.finding import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.view import View


def check_membership(context: Context) -> Iterator[Finding]:
    """VMA-UNLINKED, for every pair of views that index the same areas."""
    views = context.views.regions()
    for here, rows in views.items():
        for there, others in views.items():
            if here == there:
                continue
            missing = rows[~_paired(rows, others) & context.whole(there, rows["mm"])]
            yield from _tell(context, here, there, missing)


def _paired(rows: IndexEntries, others: IndexEntries) -> NDArray[np.bool_]:
    """Which of ``rows`` have a row of the same mm and VMA among ``others``?"""
    order = np.argsort(others["vma"], kind="stable")
    known = others.take(order)
    if not len(known):
        return np.zeros(len(rows), np.bool_)
    # Each view visits a VMA once, so an address tells the one row that may match.
    at = np.minimum(np.searchsorted(known["vma"], rows["vma"]), len(known) - 1)
    answer: NDArray[np.bool_] = (known["vma"][at] == rows["vma"]) & (known["mm"][at] == rows["mm"])
    return answer


def _tell(context: Context, here: View, there: View, missing: IndexEntries) -> Iterator[Finding]:
    def evidence(row: int) -> Evidence:
        one = missing[row]
        return Evidence(
            what=f"the {here.label} holds the {context.area(int(one['vma']))}, the {there.label} does not",
            view=here.label,
            address=int(one["slot"]),
            found=f"{int(one['vma']):#x}",
        )

    def title(row: int) -> str:
        return f"{context.area(int(missing['vma'][row]))} is in the {here.label}, hidden from the {there.label}"

    def bounds(row: int) -> tuple[int, int]:
        return int(missing["start"][row]), int(missing["end"][row])

    yield from context.per_mm(rules.UNLINKED, missing["mm"], evidence, title, bounds)
