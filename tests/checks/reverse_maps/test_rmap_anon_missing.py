"""RMAP-ANON-MISSING on reverse maps made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_rmap import add_reverse_maps
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.rule import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.views.reverse_maps.reverse_maps import RmapView


def _no_node(rmap: RmapView) -> None:
    object.__setattr__(rmap, "anon_nodes", rmap.anon_nodes.take(slice(1, None)))
    rmap.anon_vmas.active[0] = 0


def _other_vma(rmap: RmapView) -> None:
    rmap.chains.back[0] += np.uint64(256)


def _no_anon_vma(rmap: RmapView) -> None:
    rmap.vmas.anon_vma[0] = 0


def _other_anon_vma(rmap: RmapView) -> None:
    rmap.vmas.anon_vma[0] = rmap.vmas.anon_vma[1]


def _no_link(rmap: RmapView) -> None:
    object.__setattr__(rmap, "chains", rmap.chains.take(slice(1, None)))


_EDITS = pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_no_node, "is not in the tree of the anon_vma"),
        (_other_vma, "says that it is another VMA's"),
        (_no_anon_vma, "it has links to anon_vmas and no anon_vma"),
        (_other_anon_vma, "its chain has no link to its own anon_vma"),
        (_no_link, "holds a link"),
    ],
)
_PROCESSES = (Process(pid=100, vmas=("500000-502000 rw-p",)), Process(pid=101, vmas=("600000-601000 rw-p",)))


@_EDITS
def test_a_broken_link_is_found(edit: Callable[[RmapView], None], said: str) -> None:
    views = views_of(*_PROCESSES)
    rmap = add_reverse_maps(views)
    assert findings(views, "RMAP-ANON-MISSING") == []
    edit(rmap)
    (found,) = findings(views, "RMAP-ANON-MISSING")
    assert (found.mm, found.start, found.end, found.severity) == (mm_of(100), 0x500000, 0x502000, Severity.HIGH)
    assert any(said in item.what for item in found.evidence)


@_EDITS
def test_a_chain_that_was_not_followed_to_its_end_says_nothing(edit: Callable[[RmapView], None], said: str) -> None:
    views = views_of(*_PROCESSES)
    rmap = add_reverse_maps(views)
    edit(rmap)
    rmap.chain_cut[0] = True
    assert findings(views, "RMAP-ANON-MISSING") == []


def test_a_count_that_the_cut_left_behind_is_told_with_it() -> None:
    views = views_of(*_PROCESSES)
    rmap = add_reverse_maps(views)
    # Another process's VMA shares the anon_vma, as after a fork.
    _no_node(rmap)
    rmap.anon_vmas.active[0] = 1
    (found,) = findings(views, "RMAP-ANON-MISSING")
    assert "num_active_vmas" in found.evidence[-1].what
    assert (found.evidence[-1].found, found.evidence[-1].expected) == ("1", "0")


def test_a_tree_that_was_being_changed_weighs_little() -> None:
    views = views_of(*_PROCESSES)
    rmap = add_reverse_maps(views)
    _no_link(rmap)
    rmap.anon_vmas.held[0] = True
    (found,) = findings(views, "RMAP-ANON-MISSING")
    assert found.severity is Severity.LOW
