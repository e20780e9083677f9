"""VMA-PROT on VMAs made by hand. Bits of entries: Intel SDM vol. 3, 4.5."""

from __future__ import annotations

import numpy as np
import pytest

from checks.handmade_clocks import START, clocks
from checks.handmade_views import Process, findings, mm_of, views_of

_PRESENT, _WRITE, _USER, _NX = 1, 2, 4, 1 << 63
_READ_ONLY = _PRESENT | _USER | _NX


@pytest.mark.parametrize(
    ("allowed", "prot", "wrong"),
    [
        ("r--p", _READ_ONLY, False),
        ("r-xp", _READ_ONLY ^ _NX, False),
        ("rw-s", _READ_ONLY | _WRITE, False),
        ("rw-p", _READ_ONLY, False),  # private memory is written by copying
        ("r--p", _READ_ONLY ^ _NX, True),
        ("r-xp", _READ_ONLY, True),
        ("r--s", _READ_ONLY | _WRITE, True),
        ("rw-p", _READ_ONLY | _WRITE, True),
        ("r-xp", 0, True),  # what is allowed is present
        ("---p", _READ_ONLY, True),
        ("---p", 0, False),
    ],
)
def test_rights_follow_from_vm_flags(allowed: str, prot: int, wrong: bool) -> None:
    views = views_of(Process(pid=100, vmas=(f"400000-402000 {allowed} /bin/cat",)))
    views.vmas.page_prot[0] = np.uint64(prot)
    found = findings(views, "VMA-PROT")
    assert [(finding.mm, finding.start, finding.end) for finding in found] == (
        [(mm_of(100), 0x400000, 0x402000)] if wrong else []
    )


def test_a_vma_that_was_not_read_is_not_judged() -> None:
    views = views_of(Process(vmas=("400000-402000 r--p /bin/cat",)))
    views.vmas.page_prot[0] = np.uint64(_PRESENT | _WRITE)
    views.vmas.ok[0] = False
    assert findings(views, "VMA-PROT") == []


def test_what_an_index_leads_to_and_is_no_vma_was_not_read_at_one_moment() -> None:
    views = views_of(Process(pid=100, vmas=("400000-402000 r-xp /bin/cat",)))
    views.clocks = clocks(ran={100: START + 5.0})
    views.vmas.page_prot[0] = np.uint64(_READ_ONLY)
    (found,) = findings(views, "VMA-PROT")
    assert found.at_once
    views.vmas.start[0], views.vmas.end[0] = 0x2020202020202020, 0x426B203820202020
    (found,) = findings(views, "VMA-PROT")
    assert not found.at_once
