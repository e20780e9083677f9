"""Every labelled edit of a reverse map, or of a VMA that only its reverse map contradicts, is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import Edit, Sample, again_from_views, findings_of
from tamper.rmap_edits import RMAP_EDITS

from vmaforensics.checks.context import Context
from vmaforensics.checks.finding import Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from tamper.edits import Label

    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import Finding

_EVERYWHERE = ("file_area_hidden", "anon_link_cut", "file_swapped")


def _copy(sample: Sample) -> Edit:
    rmap = sample.analysis.views.rmap
    if rmap is None or not len(rmap.anon_nodes):
        pytest.skip("this excerpt was made before reverse maps were read")
    return Edit(sample.analysis)


def _holds(one: Finding, label: Label) -> bool:
    """Is it a finding of the label's rank about its process, whose range holds the label's?"""
    return (
        one.severity.rank <= label.rank.rank
        and one.pid == label.pid
        and one.start is not None
        and one.end is not None
        and one.start <= label.start
        and label.end <= one.end
    )


def _assert_told(changed: Analysis, label: Label, rule: str) -> None:
    """The reverse maps alone say so, and so does what is left when findings with one cause are joined."""
    context = Context(changed.views)
    links = [finding for finding in findings_of(context, "indices") if finding.rule.id == "VMA-LINK"]
    alone = [*findings_of(context, "reverse_maps"), *links]
    told = [(finding.rule.id, finding.pid, finding.title) for finding in alone]
    assert any(finding.rule.id == rule and _holds(finding, label) for finding in alone), told
    assert {finding.pid for finding in alone if finding.severity is Severity.HIGH} <= {label.pid}, told
    records = {View.FILE_RMAP.label, View.ANON_RMAP.label}
    joined = [finding for finding in changed.findings if _holds(finding, label)]
    assert any(item.view in records for finding in joined for item in finding.evidence), joined


@pytest.mark.parametrize(("edit", "rule"), RMAP_EDITS, ids=lambda one: getattr(one, "__name__", one))
def test_an_edit_is_found(either_sample: Sample, edit: Callable[[Edit], Label], rule: str) -> None:
    copy = _copy(either_sample)
    label = edit(copy)
    changed = again_from_views(either_sample.analysis, copy.overlay)
    if label.technique == "vm_pgoff moved" and not findings_of(Context(changed.views), "reverse_maps"):
        # Its neighbours in the tree lie further away than it was moved; its pages tell.
        own = [finding for finding in changed.findings if finding.pid == label.pid and finding.start == label.start]
        assert any(finding.severity is Severity.HIGH for finding in own), own
        return
    _assert_told(changed, label, rule)


@pytest.mark.parametrize(
    ("edit", "rule"),
    [pair for pair in RMAP_EDITS if pair[0].__name__ in _EVERYWHERE],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_an_edit_is_found_on_every_kernel(sample: Sample, edit: Callable[[Edit], Label], rule: str) -> None:
    copy = _copy(sample)
    label = edit(copy)
    changed = again_from_views(sample.analysis, copy.overlay)
    _assert_told(changed, label, rule)


def test_what_a_cut_leaves_behind_is_told_with_the_vma_that_was_cut(either_sample: Sample) -> None:
    copy = _copy(either_sample)
    edit = next(edit for edit, _ in RMAP_EDITS if edit.__name__ == "anon_link_cut")
    edit(copy)
    changed = again_from_views(either_sample.analysis, copy.overlay)
    found, *more = findings_of(Context(changed.views), "reverse_maps")
    assert not more
    assert any("num_active_vmas" in item.what for item in found.evidence)


def test_a_tree_whose_lock_was_held_is_weighed_less(either_sample: Sample) -> None:
    copy = _copy(either_sample)
    edit = next(edit for edit, _ in RMAP_EDITS if edit.__name__ == "file_link_cut")
    label = edit(copy)
    rmap = copy.views.rmap
    assert rmap is not None
    mine = rmap.vmas.start == label.start
    mapping = int(rmap.mapping[mine & (rmap.vmas.end == label.end) & (rmap.mapping != 0)][0])
    if not copy.kernel.has("address_space", "i_mmap_rwsem.count.counter"):
        pytest.skip("the lock of a real-time kernel")
    copy.put(copy.at("address_space", mapping, "i_mmap_rwsem.count.counter"), 1)
    changed = again_from_views(either_sample.analysis, copy.overlay)
    found = [finding for finding in findings_of(Context(changed.views), "reverse_maps") if finding.pid == label.pid]
    assert [(item.rule.id, item.severity) for item in found] == [("RMAP-FILE-MISSING", Severity.LOW)]


def test_nothing_is_hidden_from_an_index_that_was_not_read_whole(either_sample: Sample) -> None:
    copy = _copy(either_sample)
    edit = next(edit for edit, _ in RMAP_EDITS if edit.__name__ == "file_area_hidden")
    label = edit(copy)
    views = copy.views
    mm = int(views.mms.mm[views.mms.pid == label.pid][0])
    nodes = views.maple_nodes
    if views.maple is not None:
        copy.drop(int(nodes.address[(nodes.mm == mm) & nodes.leaf][0]))
    else:
        row = views.indices()[View.LIST]
        copy.drop(int(row.vma[(row.mm == mm) & (row.order == 1)][0]))
    changed = again_from_views(either_sample.analysis, copy.overlay)
    found = [
        finding.rule.id for finding in findings_of(Context(changed.views), "reverse_maps") if finding.pid == label.pid
    ]
    assert "RMAP-FILE-HIDDEN" not in found
