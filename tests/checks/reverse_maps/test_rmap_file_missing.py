"""RMAP-FILE-MISSING on reverse maps made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_clocks import START, clocks
from checks.handmade_rmap import add_reverse_maps, node_row
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.context import Context
from vmaforensics.checks.reverse_maps.compared_trees import compared_trees
from vmaforensics.checks.reverse_maps.neighbours import NEIGHBOURS
from vmaforensics.checks.rule import Severity
from vmaforensics.checks.weigh import run_checks

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

_VMAS = ("400000-402000 r-xp /bin/cat", "7f0000-7f4000 rw-p [stack]")


def _cut(row: int) -> Views:
    """Two processes that run a program; the VMA at ``row`` is not in its tree any more, and the tree was mended."""
    views = views_of(Process(pid=100, vmas=_VMAS), Process(pid=101, vmas=_VMAS))
    rmap = add_reverse_maps(views)
    gone = node_row(rmap.file_nodes, int(views.vmas.vma[row]))
    nodes = rmap.file_nodes.take(np.arange(len(rmap.file_nodes)) != gone)
    nodes.parent[:] = nodes.right[:] = -1
    nodes.parent_word[:] = 1
    object.__setattr__(rmap, "file_nodes", nodes)
    return views


def test_vmas_in_their_trees_are_none() -> None:
    views = views_of(Process(pid=100, vmas=_VMAS), Process(pid=101, vmas=_VMAS))
    add_reverse_maps(views)
    assert findings(views, "RMAP-FILE-MISSING") == []


def test_a_vma_that_is_not_in_its_files_tree_is_found() -> None:
    (found,) = findings(_cut(2), "RMAP-FILE-MISSING")
    assert (found.mm, found.start, found.end, found.severity) == (mm_of(101), 0x400000, 0x402000, Severity.HIGH)


def test_what_the_cut_left_behind_is_told_with_it() -> None:
    views = _cut(2)
    assert views.rmap is not None
    views.rmap.file_nodes.last[0] += np.uint64(8)
    (found,) = findings(views, "RMAP-FILE-MISSING")
    assert found.mm == mm_of(101)  # the node is the other process's
    assert "rb_subtree_last is not the largest last page below it" in found.evidence[1].what
    assert findings(views, "RMAP-TREE") == []


def test_nothing_is_missing_from_a_tree_that_was_not_read_whole() -> None:
    views = _cut(2)
    assert views.rmap is not None
    views.rmap.mappings.whole[:] = False
    assert findings(views, "RMAP-FILE-MISSING") == []


def test_a_tree_that_was_being_changed_weighs_little() -> None:
    views = _cut(2)
    assert views.rmap is not None
    views.rmap.mappings.held[:] = True
    (found,) = findings(views, "RMAP-FILE-MISSING")
    assert found.severity is Severity.LOW
    assert "write-held" in found.evidence[-1].what


@pytest.mark.parametrize("torn", [False, True])
def test_a_vma_is_cut_off_where_the_node_it_names_as_its_parent_has_no_such_child(*, torn: bool) -> None:
    """lib/rbtree.c gives a node whose parent's pointer it clears another parent: no half of a change looks like this.
    A way to the parent that could not be followed proves nothing."""
    views = _cut(2)
    assert views.rmap is not None
    views.rmap.parent_word[2] = views.rmap.file_nodes.node[0]
    if torn:
        object.__setattr__(views.rmap, "torn_nodes", views.rmap.file_nodes.node[:1])
    found = [row for compared in compared_trees(Context(views)) for row in compared.files.cut_off.tolist()]
    assert found == ([] if torn else [2])


def test_a_vma_whose_parent_has_another_child_is_not_called_cut_off() -> None:
    views = _cut(2)
    assert views.rmap is not None
    views.rmap.parent_word[2] = views.rmap.file_nodes.node[0]
    views.rmap.file_nodes.left[0] = views.rmap.file_nodes.right[0] = 0
    assert all(not len(compared.files.cut_off) for compared in compared_trees(Context(views)))


def _between(*, running: int | None = None) -> Views:
    """Three processes that map a file at pages 10, 20 and 30, read while the machine ran; the second was cut out, and
    nobody knows its parent any more. The tree was not read whole."""
    views = views_of(*(Process(pid=pid, vmas=_VMAS) for pid in (100, 101, 102)))
    views.vmas.pgoff[::2] = [10, 20, 30]
    rmap = add_reverse_maps(views)
    gone = node_row(rmap.file_nodes, int(views.vmas.vma[2]))
    nodes = rmap.file_nodes.take(np.arange(len(rmap.file_nodes)) != gone)
    nodes.parent[:], nodes.right[:] = [-1, 0], [1, -1]
    nodes.parent_word[:] = [1, int(nodes.node[0]) | 1]
    object.__setattr__(rmap, "file_nodes", nodes)
    rmap.mappings.whole[:] = False
    views.clocks = clocks(ran={pid: START + 5.0 if pid == running else 100.0 for pid in (100, 101, 102)})
    return views


def test_two_neighbours_of_the_tree_leave_out_what_belongs_between_them() -> None:
    (found,) = findings(_between(), "RMAP-FILE-MISSING")
    assert (found.mm, found.start, found.proven) == (mm_of(101), 0x400000, NEIGHBOURS)
    assert "names" in found.evidence[1].what
    (kept,) = (finding for finding in run_checks(Context(_between())) if finding.rule.id == "RMAP-FILE-MISSING")
    assert kept.mm == mm_of(101)


@pytest.mark.parametrize("pid", [100, 101, 102])
def test_neighbours_of_which_one_may_have_changed_prove_nothing(pid: int) -> None:
    assert findings(_between(running=pid), "RMAP-FILE-MISSING") == []


@pytest.mark.parametrize("page", [10, 30, 31])
def test_neighbours_leave_out_nothing_that_does_not_belong_between_them(page: int) -> None:
    views = _between()
    views.vmas.pgoff[2] = page
    assert findings(views, "RMAP-FILE-MISSING") == []


def test_a_node_with_a_child_on_that_side_is_no_neighbour_of_its_parent() -> None:
    views = _between()
    assert views.rmap is not None
    views.rmap.file_nodes.left[1] = 0
    assert findings(views, "RMAP-FILE-MISSING") == []


def test_a_vma_that_is_still_tied_into_a_tree_was_only_read_apart() -> None:
    """A rotation goes past it for a moment."""
    views = _between()
    assert views.rmap is not None
    views.rmap.answered[2] = True
    assert findings(views, "RMAP-FILE-MISSING") == []


def test_neighbours_of_an_image_that_stood_still_are_not_asked() -> None:
    views = _between()
    views.clocks = clocks(live=False)
    assert findings(views, "RMAP-FILE-MISSING") == []
