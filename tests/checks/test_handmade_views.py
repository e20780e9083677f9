"""What is made by hand is what a kernel would leave: no rule has anything to say of it."""

from __future__ import annotations

import pytest

from checks.handmade_views import Process, views_of
from vmaforensics.checks.context import Context
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.view import View

PLAIN = Process(pid=100)
LARGE = Process(pid=101, vmas=[f"{at:x}-{at + 0x2000:x} rw-p" for at in range(0x10000, 0x90000, 0x4000)])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_no_rule_finds_anything_in_views_with_a_list_and_a_tree(count: int) -> None:
    views = views_of(PLAIN, Process(pid=102, vmas=LARGE.vmas[:count]), index="list")
    assert list(views.indices()) == [View.LIST, View.RBTREE]
    assert run_checks(Context(views)) == []


@pytest.mark.parametrize("per_leaf", [8, 12])
def test_no_rule_finds_anything_in_views_with_a_maple_tree(per_leaf: int) -> None:
    views = views_of(PLAIN, LARGE, per_leaf=per_leaf)
    assert views.maple_nodes.gapped.any()
    assert run_checks(Context(views)) == []
