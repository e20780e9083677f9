"""Executable areas that no file on a disk backs: worth a look, and mostly harmless."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.finding import Evidence
from vmaforensics.views.indices.entries import union_of
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding


def check_executable(context: Context) -> Iterator[Finding]:
    """VMA-EXEC-MEMFD, VMA-EXEC-DELETED and VMA-EXEC-ANON, one finding per process and rule.

    A file counts as deleted when it has no link left; one that has another name is not gone.
    """
    views = context.views
    executable = views.vmas["ok"] & ((views.vmas["flags"] & np.uint64(flags.VM_EXEC)) != 0)
    rows = union_of([rows[executable[rows["vma_row"]]] for rows in views.regions().values()])
    vmas = views.vmas[rows["vma_row"]]
    gone = np.zeros(len(vmas), np.bool_)
    if views.files is not None and len(views.files.rows):
        gone = (vmas["file_row"] >= 0) & (views.files.rows["nlink"] == 0)[vmas["file_row"]]
        gone &= views.files.rows["ok"][vmas["file_row"]]
    for rule, which in (
        (rules.EXEC_MEMFD, vmas["kind"] == Kind.SHARED_MEMORY),
        (rules.EXEC_DELETED, (vmas["kind"] == Kind.FILE) & gone),
        (rules.EXEC_ANON, vmas["kind"] == Kind.ANONYMOUS),
    ):
        found, mine = rows[which], vmas[which]
        yield from context.per_mm(
            rule,
            found["mm"],
            lambda row, mine=mine: Evidence(  # type: ignore[misc]
                what=f"the {context.area(int(mine['vma'][row]))}",
                view=View.VMA.label,
                address=int(mine["vma"][row]),
                found=f"vm_flags {int(mine['flags'][row]):#x}",
            ),
            lambda row, mine=mine: f"{context.area(int(mine['vma'][row]))}",  # type: ignore[misc]
            lambda row, mine=mine: (int(mine["start"][row]), int(mine["end"][row])),  # type: ignore[misc]
        )
