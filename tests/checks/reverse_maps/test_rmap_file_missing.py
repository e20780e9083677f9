"""RMAP-FILE-MISSING on reverse maps made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_rmap import add_reverse_maps, node_row
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.context import Context
from vmaforensics.checks.reverse_maps.compared_trees import compared_trees
from vmaforensics.checks.rule import Severity

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
