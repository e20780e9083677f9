"""Edits that leave an index as the kernel's own code would are found by the records beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import Edit, again_from_views
from tamper.tree_edits import LIST_TREE_EDITS, MAPLE_TREE_EDITS, REPAIRABLE, list_and_tree, maple_erased

from vmaforensics.checks.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Sample
    from tamper.edits import Label

    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import Finding

    Technique = Callable[..., Label]

_OF_THE_TREE = {"MT-NODE", "MT-PIVOT", "MT-NULL", "MT-GAP", "RB-SHAPE", "RB-GAP", "VMA-LINK", "VMA-BACKLINK"}


def edited(sample: Sample, edit: Technique, *, repaired: bool = False) -> tuple[Analysis, Label]:
    copy = Edit(sample.analysis)
    label = edit(copy, repaired=True) if repaired else edit(copy)
    return again_from_views(sample.analysis, copy.overlay), label


def hits(analysis: Analysis, label: Label) -> list[Finding]:
    """Findings at least high that name the process and a range that overlaps."""
    return [
        finding
        for finding in analysis.findings
        if finding.severity.rank <= Severity.HIGH.rank
        and finding.pid == label.pid
        and finding.start is not None
        and finding.end is not None
        and finding.start < label.end
        and label.start < finding.end
    ]


def _fits(sample: Sample, edit: Technique) -> None:
    """Skip what the kernel has no index for."""
    maple = sample.analysis.views.maple is not None
    if edit not in (MAPLE_TREE_EDITS if maple else LIST_TREE_EDITS):
        pytest.skip("this kernel has another index")


@pytest.mark.parametrize("edit", dict.fromkeys([*MAPLE_TREE_EDITS, *LIST_TREE_EDITS]), ids=lambda edit: edit.__name__)
def test_an_edit_is_found_where_it_was_made(sample: Sample, edit: Technique) -> None:
    _fits(sample, edit)
    found, label = edited(sample, edit)
    assert hits(found, label), [(finding.rule.id, finding.pid, finding.title) for finding in found.findings]


@pytest.mark.parametrize("edit", REPAIRABLE, ids=lambda edit: edit.__name__)
def test_repaired_counters_do_not_hide_it(sample: Sample, edit: Technique) -> None:
    _fits(sample, edit)
    found, label = edited(sample, edit, repaired=True)
    (one,) = hits(found, label)
    assert (one.start, one.end) == (label.start, label.end)


@pytest.mark.parametrize("edit", REPAIRABLE, ids=lambda edit: edit.__name__)
def test_the_index_itself_shows_nothing_after_a_proper_erase(sample: Sample, edit: Technique) -> None:
    _fits(sample, edit)
    found, label = edited(sample, edit, repaired=True)
    (one,) = hits(found, label)
    witnesses = {item.view for item in one.evidence}
    assert not witnesses & {"counters", "maple tree", "vm_next list", "rbtree"}
    assert not {finding.rule.id for finding in found.findings} & _OF_THE_TREE


@pytest.mark.parametrize("edit", [maple_erased, list_and_tree], ids=lambda edit: edit.__name__)
def test_one_vma_is_gone_and_no_other(sample: Sample, edit: Technique) -> None:
    _fits(sample, edit)
    found, _ = edited(sample, edit)
    for view, rows in found.views.indices().items():
        before = sample.analysis.views.indices()[view]
        assert len(set(before.vma.tolist()) - set(rows.vma.tolist())) == 1
        assert len(before) == len(rows) + 1
