"""Each disguise of a file, an area or a task is found, on the oldest and the newest kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import Edit, again_from_views
from tamper.disguise_edits import DISGUISE, page_faults_of_another_module
from tamper.table import names, serious

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Sample
    from tamper.edits import Label


@pytest.mark.parametrize("edit", DISGUISE, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_a_disguise_is_found_where_it_was_put_on(
    samples: list[Sample], which: str, edit: Callable[[Edit], Label]
) -> None:
    if which == "newest" and edit is page_faults_of_another_module:
        pytest.skip("what modules use is not in the excerpt; the table of docs/detection.md is made of whole images")
    sample = samples[0 if which == "oldest" else -1]
    copy = Edit(sample.analysis)
    label = edit(copy)
    found = serious(again_from_views(sample.analysis, copy.overlay).findings, sample.analysis.findings, label.rank)
    assert [finding for finding in found if names(finding, label)], [(one.rule.id, one.pid) for one in found]
