"""Entries that differ from those beside them as only a VMA of their own would have them; page tables made by hand.

Memory is read in the order of addresses: tasks, mm_structs, VMAs, here the page tables, nodes of maple trees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import BASE

from checks.handmade_clocks import START, clocks
from checks.handmade_pages import Entry, add_page_tables, entry_row
from checks.handmade_views import NODES, Process, findings, views_of, vma_row
from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE
from vmaforensics.checks.context import Context
from vmaforensics.checks.pages.alone_in_table import WHOLE
from vmaforensics.checks.weigh import run_checks

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

DATA, BESIDE = 0x500000, 0x501000
LINES = ("400000-402000 r-xp /bin/cat", "500000-503000 rw-p", "7f0000-7f4000 rw-p [stack]")
DATA_RIGHTS = ALLOW_USER | ALLOW_WRITE


def running(changes: int, others: int = DATA_RIGHTS) -> Views:
    """A process that ran while its memory was read, of which one page of data can be executed; ``others``, as it may
    be, and so many changes of its map, of which the first was the last of the VMA in question."""
    views = views_of(Process(pid=100, vmas=LINES))
    add_page_tables(views, Entry(pid=100, va=BESIDE, pfn=0x99, allow=others))
    assert views.page_tables is not None and views.maple is not None
    views.maple.slot[:] = [NODES + 8 * slot for slot in range(3)]
    ptes = views.page_tables.ptes
    ptes.allow[entry_row(views, DATA)] = DATA_RIGHTS | ALLOW_EXECUTE
    ptes.where[:] += np.uint64(NODES - BASE - (1 << 28))
    views.clocks = clocks(ran={100: START + 5.0})
    views.mms.lock_seq[:] = changes
    for start, seq in ((0x400000, changes - 1), (DATA, 5), (0x7F0000, changes + 1)):
        views.vmas.lock_seq[vma_row(views, start)] = seq
    return views


@pytest.mark.parametrize(
    ("changes", "others", "whole", "proven"),
    [
        (300, DATA_RIGHTS, True, True),
        (300, DATA_RIGHTS | ALLOW_EXECUTE, True, False),  # mprotect does that to all of a VMA
        (300, DATA_RIGHTS, False, False),  # the index has it in other bounds
        (6, DATA_RIGHTS, True, False),  # too few changes have passed the VMA over
    ],
)
def test_one_page_that_can_be_executed_in_a_vma_that_was_in_one_piece_before_and_after(
    changes: int, others: int, *, whole: bool, proven: bool
) -> None:
    views = running(changes, others)
    if not whole:
        assert views.maple is not None
        views.maple.end[views.maple.start == DATA] -= np.uint64(0x1000)
    proofs = [finding.proven for finding in findings(views, "PTE-PERM")]
    assert proofs == [WHOLE if proven else ""]
    kept = [finding for finding in run_checks(Context(views)) if finding.rule.id == "PTE-PERM"]
    assert [finding.start for finding in kept] == [DATA] * proven
