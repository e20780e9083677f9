"""Edited page tables are found where they were edited, in both copies where the kernel keeps two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import FURTHER, Edit, again_from_views
from tamper.page_edits import PAGE_EDITS, ghost_subtree, own_table_again, pte_to_slab, user_copy_only

from vmaforensics.checks.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Sample
    from tamper.edits import Label

    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.pages.page_tables import PageTablesView


def serious(analysis: Analysis) -> list[Finding]:
    return [finding for finding in analysis.findings if finding.severity.rank <= Severity.HIGH.rank]


def names(one: Finding, label: Label) -> bool:
    if one.start is None or one.end is None:
        return False
    return one.pid == label.pid and one.start < label.end and label.start < one.end


def tables_of(analysis: Analysis) -> PageTablesView:
    assert analysis.views.page_tables is not None
    return analysis.views.page_tables


@pytest.mark.parametrize("edit", PAGE_EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_is_found_where_it_was_made(either_sample: Sample, edit: Callable[[Edit], Label]) -> None:
    if edit is user_copy_only and not either_sample.analysis.kernel.identity.isolation:
        pytest.skip("this kernel has no page-table isolation")
    copy = Edit(either_sample.analysis)
    label = edit(copy)
    found = serious(again_from_views(either_sample.analysis, copy.overlay))
    assert any(names(item, label) for item in found), [(item.rule.id, item.pid, item.title) for item in found]


@pytest.mark.parametrize("edit", [ghost_subtree, own_table_again, pte_to_slab], ids=lambda edit: edit.__name__)
def test_nothing_else_is_accused(sample: Sample, edit: Callable[[Edit], Label]) -> None:
    """Neither the process whose table or page was taken, nor nobody."""
    copy = Edit(sample.analysis)
    label = edit(copy)
    found = serious(again_from_views(sample.analysis, copy.overlay))
    assert [(item.rule.id, item.pid, item.title) for item in found if not names(item, label)] == []


def test_a_table_that_is_reached_twice_is_told_with_both_places(either_sample: Sample) -> None:
    copy = Edit(either_sample.analysis)
    label = own_table_again(copy)
    found = again_from_views(either_sample.analysis, copy.overlay)
    assert len(tables_of(found).repeated) == 1
    evidence = [
        item.what for finding in serious(found) for item in finding.evidence if "reached more than once" in item.what
    ]
    assert len(evidence) == 1
    assert f"for {label.start:#x} of process {label.pid}" in evidence[0]
    assert evidence[0].count(f"of process {label.pid}") == 2


def test_no_table_of_a_clean_kernel_is_reached_twice(any_kernel: Sample) -> None:
    assert len(tables_of(any_kernel.analysis).repeated) == 0


# Page-table isolation ---------------------------------------------------------------------------------------


@pytest.fixture
def isolated() -> Sample:
    """A guest booted with pti=on."""
    for sample in FURTHER:
        if sample.name == "debian-6.1-pti":
            return sample
    pytest.skip("no image of a guest with page-table isolation")


def test_isolation_is_recognised_and_both_copies_of_a_clean_kernel_agree(isolated: Sample) -> None:
    assert isolated.analysis.kernel.identity.isolation is True
    assert b"pti=on" in isolated.truth["proc/cmdline"]
    assert len(tables_of(isolated.analysis).isolated) == 0
    assert [finding.title for finding in isolated.analysis.findings if finding.rule.id == "PT-ISOLATION"] == []


def test_the_copies_that_are_compared_are_the_ones_cpus_run_on(isolated: Sample) -> None:
    """The kernel's copy has NX on every entry of the user half, the user's copy on none (__pti_set_user_pgtbl)."""
    analysis = isolated.analysis
    pgd = analysis.views.mms.pgd[analysis.views.mms.ok & (analysis.views.mms.pid > 0)]
    roots, _, _ = analysis.kernel.space.translate(pgd)
    raw, ok = analysis.kernel.memory.gather(roots, 8192)
    words = raw[ok].view("<u8").reshape(-1, 2, 512)[:, :, :256]
    used = words[:, 0] != 0
    assert used.any(axis=1).sum() > 50
    assert ((words[:, 0][used] >> np.uint64(63)) == 1).all()
    assert ((words[:, 1][used] >> np.uint64(63)) == 0).all()


def test_the_user_half_is_walked(isolated: Sample) -> None:
    view = tables_of(isolated.analysis)
    assert view.whole[isolated.analysis.views.mms.ok].all()
    assert len(view.ptes) > 10000


def test_what_hangs_in_the_users_copy_alone_is_found_and_walked(isolated: Sample) -> None:
    copy = Edit(isolated.analysis)
    label = user_copy_only(copy)
    found = again_from_views(isolated.analysis, copy.overlay)
    isolation = tables_of(found).isolated
    assert (isolation.va.tolist(), isolation.entry.tolist()) == ([label.start], [0])
    (one,) = serious(found)
    assert (one.pid, one.rule.id) == (label.pid, "PTE-ORPHAN")
    assert names(one, label)
    said = " ".join(item.what for item in one.evidence)
    assert f"the top-level entry for {label.start:#x} is {int(isolation.user[0]):#x} in the user's copy" in said
    # The pages behind it are told like any others that no VMA has.
    ghosts = tables_of(found).ptes.take(tables_of(found).orphans)
    assert len(ghosts)
    assert ((ghosts.va >= np.uint64(label.start)) & (ghosts.va < np.uint64(label.end))).all()


def test_an_entry_that_the_users_copy_lacks_is_found(isolated: Sample) -> None:
    copy = Edit(isolated.analysis)
    view, kernel = tables_of(isolated.analysis), copy.kernel
    top = view.tables.take(view.tables.level == kernel.identity.levels)
    raw, _ = kernel.memory.gather(top.pa, 4096)
    words = raw.view("<u8").reshape(-1, 512)[:, :256]
    row = int(np.flatnonzero((words != 0).any(axis=1))[0])
    slot = int(np.flatnonzero(words[row])[0])
    copy.overlay.write(int(top.pa[row]) + 4096 + 8 * slot, bytes(8))
    found = serious(again_from_views(isolated.analysis, copy.overlay))
    pid = int(copy.views.mms.pid[top.owner[row]])
    assert [(item.rule.id, item.pid, item.start) for item in found] == [("PT-ISOLATION", pid, slot << 39)]
