"""Every labelled edit of a reverse map, or of an area that only its reverse map contradicts, is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import Sample, again_from_views

from tests.tamper.edits import Bench, Label
from tests.tamper.rmap_edits import RMAP_EDITS
from vmaforensics.checks.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.analyse import Analysis

_EVERYWHERE = ("file_area_hidden", "anon_link_cut", "file_swapped")


def _bench(sample: Sample) -> Bench:
    rmap = sample.analysis.views.rmap
    if rmap is None or not len(rmap.anon_nodes):
        pytest.skip("this excerpt was made before reverse maps were read")
    return Bench(sample.analysis)


def _told(changed: Analysis, label: Label, rule: str) -> bool:
    """Is there a finding of the rule, high, of the label's process, whose range holds the label's?"""
    return any(
        one.rule.id == rule
        and one.severity.rank <= Severity.HIGH.rank
        and one.pid == label.pid
        and one.start is not None
        and one.end is not None
        and one.start <= label.start
        and label.end <= one.end
        for one in changed.findings
    )


@pytest.mark.parametrize(("edit", "rule"), RMAP_EDITS, ids=lambda one: getattr(one, "__name__", one))
def test_an_edit_is_found(either_sample: Sample, edit: Callable[[Bench], Label], rule: str) -> None:
    bench = _bench(either_sample)
    label = edit(bench)
    changed = again_from_views(either_sample.analysis, bench.overlay)
    assert _told(changed, label, rule), [(one.rule.id, one.pid, one.title) for one in changed.findings]
    blamed = {one.pid for one in changed.findings if one.rule.id.startswith("RMAP") and one.severity is Severity.HIGH}
    assert blamed <= {label.pid}


@pytest.mark.parametrize(
    ("edit", "rule"),
    [pair for pair in RMAP_EDITS if pair[0].__name__ in _EVERYWHERE],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_an_edit_is_found_on_every_kernel(sample: Sample, edit: Callable[[Bench], Label], rule: str) -> None:
    bench = _bench(sample)
    label = edit(bench)
    changed = again_from_views(sample.analysis, bench.overlay)
    assert _told(changed, label, rule), [(one.rule.id, one.pid, one.title) for one in changed.findings]


def test_what_a_cut_leaves_behind_is_told_with_the_area_that_was_cut(either_sample: Sample) -> None:
    bench = _bench(either_sample)
    edit = next(edit for edit, _ in RMAP_EDITS if edit.__name__ == "anon_link_cut")
    edit(bench)
    changed = again_from_views(either_sample.analysis, bench.overlay)
    assert [one.rule.id for one in changed.findings if one.rule.id.startswith("RMAP")] == ["RMAP-ANON-MISSING"]
    found = next(one for one in changed.findings if one.rule.id == "RMAP-ANON-MISSING")
    assert any("num_active_vmas" in one.what for one in found.evidence)
