"""RMAP-FILE-MISMATCH on reverse maps made by hand."""

from __future__ import annotations

import numpy as np

from checks.handmade_rmap import OFFSETS, add_reverse_maps
from checks.handmade_views import Process, findings, mm_of, views_of

_VMAS = ("400000-402000 r-xp /bin/cat", "500000-503000 r-xp /lib/libc.so")


def test_vmas_that_show_what_their_trees_say_are_none() -> None:
    views = views_of(Process(pid=100, vmas=_VMAS), Process(pid=101, vmas=_VMAS))
    add_reverse_maps(views)
    assert findings(views, "RMAP-FILE-MISMATCH") == []


def test_a_vma_of_another_file_than_its_tree_is_found() -> None:
    views = views_of(Process(pid=100, vmas=_VMAS))
    rmap = add_reverse_maps(views)
    rmap.mapping[0] = rmap.mapping[1]
    (found,) = findings(views, "RMAP-FILE-MISMATCH")
    assert (found.mm, found.start, found.end) == (mm_of(100), 0x400000, 0x402000)
    assert found.title.endswith("maps /bin/cat, not what vm_file says")
    assert found.evidence[0].address == int(views.vmas.vma[0]) + OFFSETS["vm_file"]


def test_a_vma_whose_file_was_cleared_is_found() -> None:
    views = views_of(Process(pid=100, vmas=_VMAS))
    rmap = add_reverse_maps(views)
    rmap.vmas.file[0] = rmap.mapping[0] = 0
    (found,) = findings(views, "RMAP-FILE-MISMATCH")
    assert found.title.endswith("maps /bin/cat, and its vm_file is empty")


def test_a_vma_of_other_pages_than_its_tree_is_found() -> None:
    views = views_of(Process(pid=100, vmas=_VMAS))
    rmap = add_reverse_maps(views)
    rmap.vmas.pgoff[0] += np.uint64(7)
    (found,) = findings(views, "RMAP-FILE-MISMATCH")
    assert (found.mm, found.start) == (mm_of(100), 0x400000)
    assert (found.evidence[0].found, found.evidence[0].expected) == ("0x8", "0x1")
    assert findings(views, "RMAP-TREE") == []


def test_a_tree_that_was_not_read_whole_says_nothing_of_pages() -> None:
    views = views_of(Process(pid=100, vmas=_VMAS))
    rmap = add_reverse_maps(views)
    rmap.vmas.pgoff[0] += np.uint64(7)
    rmap.mappings.whole[:] = False
    assert findings(views, "RMAP-FILE-MISMATCH") == []


def test_a_tree_with_a_vma_that_was_not_read_is_not_judged() -> None:
    views = views_of(Process(pid=100, vmas=_VMAS), Process(pid=101, vmas=_VMAS))
    rmap = add_reverse_maps(views)
    rmap.vmas.pgoff[0] += np.uint64(7)
    rmap.vmas.ok[2] = False
    assert findings(views, "RMAP-FILE-MISMATCH") == []
