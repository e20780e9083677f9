"""Pages with code that no address leads to are found on every kernel, and nothing of the kind in a clean one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import Edit, again_from_views
from tamper.frame_edits import FRAME_EDITS, page_pinned, page_reserved

from vmaforensics.checks.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Sample
    from tamper.edits import Label

    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import Finding

    Technique = Callable[[Edit], Label]


def told(analysis: Analysis) -> list[Finding]:
    return [finding for finding in analysis.findings if finding.rule.id.startswith("FRAME-")]


def test_a_clean_kernel_has_no_code_that_nobody_owns(any_kernel: Sample) -> None:
    assert told(any_kernel.analysis) == []


@pytest.mark.parametrize("edit", FRAME_EDITS, ids=lambda edit: edit.__name__)
def test_code_that_was_taken_out_of_the_page_tables_is_found(sample: Sample, edit: Technique) -> None:
    view = sample.analysis.views.frames
    assert view is not None
    if edit is page_reserved and not view.reserved.whole:
        pytest.skip("the zones are not in the image")
    copy = Edit(sample.analysis)
    label = edit(copy)
    found = again_from_views(sample.analysis, copy.overlay)
    (finding,) = told(found)
    assert finding.severity is label.rank is Severity.MEDIUM
    rules: dict[Technique, str] = {page_pinned: "FRAME-HELD", page_reserved: "FRAME-RESERVED"}
    assert finding.rule.id == rules.get(edit, "FRAME-UNOWNED")
    others = {(item.rule.id, item.mm) for item in sample.analysis.findings}
    assert {(item.rule.id, item.mm) for item in found.findings} - others == {(finding.rule.id, 0)}
