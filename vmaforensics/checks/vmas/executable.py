"""Executable VMAs by what backs them, for the rules that list those without a file on a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.views.indices.entries import union_of
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.vmas.vmas import Vmas


def executable_vmas(context: Context) -> Vmas:
    """The executable VMAs of all indices together, each once, by mm and start; a VMA's ``mm`` is the index's."""
    views = context.views
    executable = views.vmas.ok & ((views.vmas.flags & np.uint64(flags.VM_EXEC)) != 0)
    entries = union_of([rows.take(executable[rows.vma_row]) for rows in views.indices().values()])
    return views.vmas.take(entries.vma_row).replace(mm=entries.mm)


def list_vmas(context: Context, rule: Rule, vmas: Vmas, which: Bools) -> Iterator[Finding]:
    """One finding of ``rule`` for each process, which lists those of its executable ``vmas`` that ``which`` marks."""
    vmas = vmas.take(which)

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"the {context.vma_in_words(int(vmas.vma[row]))}",
            view=View.VMA.label,
            address=int(vmas.vma[row]),
            found=f"vm_flags {int(vmas.flags[row]):#x}",
        )

    yield from context.per_mm(
        rule,
        vmas.mm,
        evidence,
        lambda row: context.vma_in_words(int(vmas.vma[row])),
        lambda row: (int(vmas.start[row]), int(vmas.end[row])),
    )
