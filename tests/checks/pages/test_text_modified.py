"""TEXT-MODIFIED on pages made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_pages import add_page_tables, entry_row
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.rule import Severity
from vmaforensics.views.pages.text_match import Match, TextPages
from vmaforensics.views.pages.text_pages import TextView
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

_TEXT = 0x400000


def _view(*, match: Match = Match.DIFFERS, probed: int = 0, breakpoints: int = 0, known: bool = True) -> Views:
    """A page of code of which three bytes differ."""
    views = views_of(Process(pid=100))
    add_page_tables(views)
    pages = TextPages.of(
        1,
        pte_row=[entry_row(views, _TEXT)],
        vma_row=[0],
        va=[_TEXT],
        pfn=[0x77],
        cached=[0x88],
        match=[match],
        first=[0x10],
        count=[3],
        probed=[probed],
        breakpoints=[breakpoints],
        now=np.full((1, 8), 0xCC, np.uint8),
        was=np.full((1, 8), 0x90, np.uint8),
    )
    views.text = TextView(pages=pages, judged=1, unindexed=0, probes_known=known)
    return views


def test_changed_code_names_the_first_byte() -> None:
    (found,) = findings(_view(), "TEXT-MODIFIED")
    assert (found.mm, found.start, found.end, found.severity) == (mm_of(100), _TEXT, _TEXT + 0x1000, Severity.HIGH)
    assert found.title.startswith("code at 0x400010 of /bin/cat was changed (3 bytes")
    assert "at 0x10 cc cc cc cc cc cc cc cc instead of 90 90" in found.evidence[0].what


@pytest.mark.parametrize("match", [match for match in Match if match is not Match.DIFFERS])
def test_only_contents_that_differ_are_a_finding(match: Match) -> None:
    assert findings(_view(match=match), "TEXT-MODIFIED") == []


def test_bytes_of_probes_are_none() -> None:
    assert findings(_view(probed=3), "TEXT-MODIFIED") == []


def test_breakpoints_of_a_debugger_rank_low() -> None:
    views = _view(breakpoints=3)
    (found,) = findings(views, "TEXT-MODIFIED")
    assert found.severity is Severity.HIGH
    assert views.text is not None
    views.text.pages.traced[0] = True
    (found,) = findings(views, "TEXT-MODIFIED")
    assert found.severity is Severity.LOW


def test_breakpoints_may_be_probes_where_those_are_unknown() -> None:
    (found,) = findings(_view(breakpoints=3, known=False), "TEXT-MODIFIED")
    assert (found.severity, "uprobes is not in the image" in found.title) == (Severity.LOW, True)


def test_code_that_its_process_could_write_ranks_medium() -> None:
    views = _view()
    views.vmas.flags[0] |= np.uint64(flags.VM_ACCOUNT)
    (found,) = findings(views, "TEXT-MODIFIED")
    assert found.severity is Severity.MEDIUM
