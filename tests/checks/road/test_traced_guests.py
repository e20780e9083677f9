"""Guests with tracing tools at work (``debian-SERIES-traced`` of the recipe): who has a hand in the kernel's code is
told by name, as the guest's own lists have it, and nothing of it is above low."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import built

from vmaforensics.checks.finding import Severity
from vmaforensics.checks.registry import rule_modules

if TYPE_CHECKING:
    from support import Sample

TRACED = built(*(f"debian-{series}-traced" for series in ("5.10", "6.1", "6.12", "7.3")))
pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(not TRACED, reason="no guest with tracing tools: make_images.py debian-6.1-traced"),
]
traced = pytest.mark.parametrize("sample", TRACED, ids=lambda sample: sample.name)


def listed(sample: Sample, part: str) -> list[str]:
    """Lines of one part of what the guest's kernel said of probes, functions and patches."""
    lines = sample.truth["run/log/traced"].decode().splitlines()
    start = lines.index(f"{part}:") + 1
    ends = (at for at in range(start, len(lines)) if lines[at].endswith(":") and " " not in lines[at])
    return lines[start : next(ends, len(lines))]


@traced
def test_tracing_tools_are_low_and_named(sample: Sample) -> None:
    chapters = {module.rule.id: module.chapter for module in rule_modules()}
    findings = [one for one in sample.analysis.findings if chapters[one.rule.id] == "road"]
    assert {one.rule.id for one in findings} == {"CODE-TRACED", "KPROBE"}
    assert all(one.severity.rank >= Severity.LOW.rank for one in sample.analysis.findings)
    told = " ".join(item.what for one in findings for item in one.evidence)
    assert "vmt/areas" in told
    assert "(bpftrace)" in told
    if listed(sample, "patches"):
        assert "(livepatch)" in told


@traced
def test_probes_and_traced_functions_are_those_the_guest_lists(sample: Sample) -> None:
    road = sample.analysis.views.road
    assert road is not None
    places = {int(line.split()[0], 16) for line in listed(sample, "kprobes")}
    assert set(road.probes.probes.addr.tolist()) == places
    functions = {line.split()[0] for line in listed(sample, "functions") if line[:1].strip()}
    known = road.tracers.traced.ip
    for name in functions:
        at = np.array(sample.analysis.kernel.symbols.find(name), np.uint64)
        # A site lies at the beginning of its function, or behind the four bytes of an endbr64.
        assert np.isin(np.concatenate([at, at + np.uint64(4)]), known).any(), name


@traced
def test_code_that_probes_stand_in_is_followed_and_nothing_in_it_leads_away(sample: Sample) -> None:
    road = sample.analysis.views.road
    assert road is not None
    assert len(road.flow.wrong) == 0
    assert road.flow.instructions > 10_000
    assert road.flow.unread == 0
