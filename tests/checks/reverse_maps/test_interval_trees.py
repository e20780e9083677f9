"""Which of two neighbours stands in the wrong place."""

from __future__ import annotations

import numpy as np
import pytest

from vmaforensics.checks.reverse_maps.interval_trees import find_misplaced


@pytest.mark.parametrize(
    ("first", "stale", "moved", "unclear"),
    [
        ([], [], [], []),
        ([5], [], [], []),
        ([1, 2, 2, 3], [], [], []),
        ([1, 9, 2, 3], [], [1], []),  # without 9 the rest is in order
        ([4, 5, 1, 6], [], [2], []),  # without 1
        ([2, 1], [], [], [0, 1]),  # either
        ([2, 1], [1], [1], []),  # the one whose record is stale too
        ([3, 4, 1, 2], [], [], [1, 2]),  # neither alone
    ],
)
def test_the_node_without_which_the_rest_is_in_order_is_wrong(
    first: list[int], stale: list[int], moved: list[int], unclear: list[int]
) -> None:
    count = len(first)
    is_stale = np.zeros(count, np.bool_)
    is_stale[stale] = True
    found = find_misplaced(np.full(count, 7, np.uint64), np.array(first, np.uint64), np.ones(count, np.bool_), is_stale)
    assert np.flatnonzero(found.moved).tolist() == moved
    assert np.flatnonzero(found.unclear).tolist() == unclear


def test_trees_are_not_compared_with_each_other() -> None:
    yes = np.ones(4, np.bool_)
    tree, first = np.array([1, 1, 2, 2], np.uint64), np.array([8, 9, 1, 2], np.uint64)
    found = find_misplaced(tree, first, yes, ~yes)
    assert not (found.moved | found.unclear).any()


def test_trees_that_are_not_judged_have_no_place() -> None:
    no = np.zeros(2, np.bool_)
    found = find_misplaced(np.full(2, 7, np.uint64), np.array([2, 1], np.uint64), no, no)
    assert not (found.moved | found.unclear).any()
