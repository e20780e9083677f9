"""RMAP-TREE on reverse maps made by hand."""

from __future__ import annotations

import numpy as np

from checks.handmade_rmap import add_reverse_maps
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.rule import Severity

_PROCESSES = tuple(
    Process(pid=pid, vmas=("400000-402000 r-xp /bin/cat", "500000-502000 rw-p")) for pid in (100, 101, 102)
)


def test_trees_as_the_kernel_builds_them_are_none() -> None:
    views = views_of(*_PROCESSES)
    add_reverse_maps(views)
    assert findings(views, "RMAP-TREE") == []


def test_an_empty_reverse_map_is_none() -> None:
    views = views_of(Process(vmas=("400000-402000 r-xp /bin/cat",)))
    add_reverse_maps(views)
    assert findings(views, "RMAP-TREE") == []


def test_a_recorded_last_page_that_no_vma_reaches_is_found() -> None:
    """Two VMAs are there; the third was cut out of the tree, and of its file's pages."""
    views = views_of(*_PROCESSES)
    rmap = add_reverse_maps(views)
    rmap.file_nodes.last[0] += np.uint64(4)
    (found,) = findings(views, "RMAP-TREE")
    assert (found.mm, found.severity) == (int(views.vmas.mm[0]), Severity.MEDIUM)
    (evidence,) = found.evidence
    assert (evidence.found, evidence.expected) == ("0x5", "0x1")
    assert evidence.address == int(rmap.file_nodes.node[0])


def test_a_tree_that_is_said_to_begin_later_is_found() -> None:
    """interval_tree_iter_first gives up where what it is asked for lies before rb_leftmost."""
    views = views_of(*_PROCESSES)
    rmap = add_reverse_maps(views)
    first, second = rmap.file_nodes.node[:2].tolist()
    rmap.mappings.leftmost[:] = first
    assert findings(views, "RMAP-TREE") == []
    rmap.mappings.leftmost[:] = second
    (found,) = findings(views, "RMAP-TREE")
    assert (found.mm, found.severity) == (int(views.vmas.mm[0]), Severity.MEDIUM)
    (evidence,) = found.evidence
    assert (evidence.found, evidence.expected) == (f"{second:#x}", f"{first:#x}")


def test_a_parent_word_that_leads_elsewhere_is_found() -> None:
    views = views_of(*_PROCESSES)
    rmap = add_reverse_maps(views)
    rmap.file_nodes.parent_word[1] += np.uint64(0x100)
    (found,) = findings(views, "RMAP-TREE")
    assert "parent pointer" in found.evidence[0].what
    assert found.evidence[0].expected == f"{int(rmap.file_nodes.node[0]):#x}"


def test_neighbours_of_which_either_may_be_wrong_are_both_told_without_a_right_value() -> None:
    """Pages 4, 2, 4, 2: neither of the middle pair, taken away, leaves the rest in order."""
    views = views_of(*_PROCESSES, Process(pid=103, vmas=("400000-402000 r-xp /bin/cat",)))
    rmap = add_reverse_maps(views)
    files = views.vmas.file != 0
    rmap.vmas.pgoff[files] = [0, 8, 4, 2]
    nodes = rmap.file_nodes
    nodes.last[:] = [9, 9, 5, 3]
    found = findings(views, "RMAP-TREE")
    said = [item for finding in found for item in finding.evidence if "out of order" in item.what]
    mismatched = findings(views, "RMAP-FILE-MISMATCH")
    assert said or mismatched
    assert all(item.expected == "" for item in said)


def test_a_count_of_vmas_that_the_tree_does_not_hold_is_found() -> None:
    views = views_of(*_PROCESSES)
    rmap = add_reverse_maps(views)
    rmap.anon_vmas.active[1] = 5
    (found,) = findings(views, "RMAP-TREE")
    assert (found.mm, found.start) == (mm_of(101), None)
    assert (found.evidence[0].found, found.evidence[0].expected) == ("5", "1")


def test_silent_where_nothing_counts_the_vmas_or_the_tree_was_not_read() -> None:
    views = views_of(*_PROCESSES)
    rmap = add_reverse_maps(views)
    rmap.anon_vmas.active[0] = -1
    rmap.anon_vmas.active[1] = 5
    rmap.anon_vmas.whole[1] = False
    rmap.file_nodes.last[0] += np.uint64(4)
    rmap.mappings.whole[:] = False
    assert findings(views, "RMAP-TREE") == []
