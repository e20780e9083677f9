"""The bundled memory that was read while its guest ran: when, what is torn, and what is hidden in it all the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from at_work import judge
from support import LIVE, Sample

from vmaforensics.checks.acquisition import Acquired
from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.document import encode

if TYPE_CHECKING:
    from typing import Any

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(not LIVE, reason="no bundled image that was read while a guest ran"),
]
SECOND = 10**9
SHARED = {
    "file_unlinked",
    "page_elsewhere",
}  # of records that other processes write too: told as torn (docs/at-work.md)


@pytest.fixture(scope="module", params=LIVE, ids=lambda sample: sample.name)
def live(request: pytest.FixtureRequest) -> Sample:
    found: Sample = request.param
    return found


@pytest.fixture(scope="module")
def document(live: Sample) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(encode(build_document(live.analysis)))
    return found


def test_each_slice_was_read_when_it_is_said_to_have_been(live: Sample) -> None:
    """The guest's clock runs with the host's, so the slices' times less the first are those in the guest."""
    acquired = live.analysis.context.acquisition
    assert acquired.how is Acquired.LIVE
    times = acquired.times
    assert times is not None
    slices = json.loads((live.image_path.parent / "times.json").read_bytes())["slices"]
    began, ended = slices[0][2], slices[-1][3]
    assert (times.end - times.start) / SECOND == pytest.approx(ended - began, abs=2)


def test_nothing_is_found_but_what_was_changed(live: Sample, document: dict[str, Any]) -> None:
    false, edits = judge(live.manifest, document)
    assert false == []
    missed = {edit["edit"] for edit in edits if edit["resting"] and not edit["rules"]}
    assert missed <= SHARED
    assert sum(edit["resting"] for edit in edits) - len(missed) >= 6


def test_what_contradicts_itself_in_processes_that_ran_is_told_as_torn(document: dict[str, Any]) -> None:
    assert any("while the machine ran" in json.dumps(part) for part in document.values())
