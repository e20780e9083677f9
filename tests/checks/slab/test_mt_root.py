"""MT-ROOT on root nodes made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.views.processes.mm_lists import TreeRoots
from vmaforensics.views.processes.mm_sources import Source, SourcesView

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

_NODE = 0xFFFF_8880_7000_0000


def _views(*, current: bool) -> Views:
    """A root node that names the tree of a process."""
    views = views_of(Process(pid=100), Process(pid=101))
    views.sources = SourcesView(
        tasks=views.tasks,
        task_sources=np.zeros(2, np.uint16),
        executing=np.zeros(2, np.bool_),
        mms=views.mms,
        mm_sources=np.zeros(2, np.uint16),
        owner=np.zeros(2, np.uint64),
        last_user=np.zeros(2, np.uint64),
        kernel_own=np.zeros(2, np.bool_),
        roots=TreeRoots.of(1, node=[_NODE], mm=[mm_of(101)], current=[current]),
        whole=Source.TASK_LIST,
    )
    return views


def test_the_root_of_the_tree_in_use_is_none() -> None:
    assert findings(_views(current=True), "MT-ROOT") == []


def test_a_live_root_of_another_tree_is_found() -> None:
    views = _views(current=False)
    (found,) = findings(views, "MT-ROOT")
    assert found.mm == mm_of(101)
    assert found.evidence[0].address == _NODE
    assert found.evidence[0].found == f"{int(views.mms.ma_root[1]):#x}"


def test_an_mm_without_users_or_of_nobody_says_nothing() -> None:
    views = _views(current=False)
    views.mms.users[1] = 0
    assert findings(views, "MT-ROOT") == []
    views = _views(current=False)
    assert views.sources is not None
    views.sources.roots.mm[0] = 0x1234
    assert findings(views, "MT-ROOT") == []
