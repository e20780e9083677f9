"""Look-ups, runs and ragged ranges: the examples of their docstrings, and the ends of what they are given."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.columns import lookup, ragged, runs

if TYPE_CHECKING:
    from types import ModuleType

NONE = np.zeros(0, np.uint64)


@pytest.mark.parametrize("module", [lookup, ragged, runs])
def test_the_examples_in_docstrings_hold(module: ModuleType) -> None:
    found = doctest.testmod(module, extraglobs={"np": np})
    assert found.attempted
    assert not found.failed


def test_nothing_is_found_in_an_empty_column() -> None:
    wanted = np.array([1, 2], np.uint64)
    assert lookup.rows_of(NONE, wanted).tolist() == [-1, -1]
    assert lookup.last_rows_of(NONE, wanted).tolist() == [-1, -1]
    assert lookup.covering_rows(NONE, NONE, wanted).tolist() == [-1, -1]
    assert lookup.values_at(NONE, np.array([-1, -1]), 7).tolist() == [7, 7]
    assert lookup.bounds_of(NONE, 3) == (0, 0)


@pytest.mark.parametrize(
    ("major", "minor", "ascend"),
    [([], [], True), ([1], [9], True), ([1, 1], [9, 9], True), ([1, 1, 2], [1, 2, 0], True), ([1, 1], [2, 1], False)],
)
def test_rows_ascend_by_the_weightier_key_first(major: list[int], minor: list[int], ascend: bool) -> None:
    assert lookup.is_sorted(np.array(major), np.array(minor)) is ascend


def test_keys_at_the_top_of_the_address_space_are_found() -> None:
    keys = np.array([0, 2**64 - 1], np.uint64)
    assert lookup.rows_of(keys, keys).tolist() == [0, 1]
    assert lookup.covering_rows(keys[1:], keys[1:], keys[1:]).tolist() == [-1]  # an empty range holds nothing


def test_an_address_at_the_end_of_a_range_is_outside() -> None:
    start, end = np.array([0x1000], np.uint64), np.array([0x2000], np.uint64)
    assert lookup.covering_rows(start, end, np.array([0xFFF, 0x1000, 0x1FFF, 0x2000], np.uint64)).tolist() == [
        -1,
        0,
        0,
        -1,
    ]


def test_a_composite_key_clamps_what_does_not_fit() -> None:
    key = lookup.composite_key(np.array([0, 1]), np.array([2**60, 0], np.uint64), 45)
    assert key[0] == (1 << 45) - 1 < key[1]


def test_runs_of_no_rows() -> None:
    begins = runs.begins_run(NONE)
    assert runs.run_starts(begins).tolist() == []
    assert runs.run_lasts(runs.run_starts(begins), 0).tolist() == []
    assert runs.places_in_run(begins).tolist() == []
    assert runs.value_before(NONE, begins).tolist() == []


def test_a_run_ends_where_any_key_changes() -> None:
    begins = runs.begins_run(np.array([1, 1, 1, 2]), np.array([5, 5, 6, 6]))
    assert runs.run_starts(begins).tolist() == [0, 2, 3]
    assert runs.run_numbers(begins).tolist() == [0, 0, 1, 2]


def test_rows_of_no_elements_are_left_out() -> None:
    row, number = ragged.expand_ranges(np.array([5, 9, 7]), np.array([5, 8, 9]))
    assert row.tolist() == [2, 2]
    assert number.tolist() == [7, 8]


def test_distinct_and_membership_are_those_of_numpy() -> None:
    values = np.random.default_rng(3).integers(0, 50, 200).astype(np.uint64) | np.uint64(1 << 63)
    among = values[::7]
    assert lookup.distinct(values, among).tolist() == np.unique(values).tolist()
    assert lookup.is_in(values, among).tolist() == np.isin(values, among).tolist()
    nothing = values[:0]
    assert len(lookup.distinct(nothing)) == 0
    assert not lookup.is_in(values, nothing).any()
