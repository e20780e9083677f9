"""Strings that rows share are kept once, and read back row by row."""

from __future__ import annotations

import numpy as np
import pytest

from vmaforensics.columns.texts import Texts

ROWS = [b"[heap]", b"", b"[heap]", b"/bin/\xff"]


def test_equal_strings_are_kept_once() -> None:
    texts = Texts.of(ROWS)
    assert sorted(texts.strings) == sorted(set(ROWS))
    assert texts.tolist() == list(texts) == ROWS
    assert len(texts) == 4


def test_a_row_is_read_by_number() -> None:
    texts = Texts.of(ROWS)
    assert [texts[row] for row in (3, -1, 0)] == [b"/bin/\xff", b"/bin/\xff", b"[heap]"]
    with pytest.raises(IndexError):
        texts[4]


def test_rows_are_taken_by_number_mask_and_slice() -> None:
    texts = Texts.of(ROWS)
    assert texts.take(np.array([3, 0])).tolist() == [ROWS[3], ROWS[0]]
    assert texts.take(np.array([True, False, False, True])).tolist() == [ROWS[0], ROWS[3]]
    assert texts.take(slice(2, None)).tolist() == ROWS[2:]


def test_parts_are_joined_in_order() -> None:
    assert Texts.concatenate([Texts.of(ROWS[:1]), Texts.of([]), Texts.of(ROWS[1:])]).tolist() == ROWS
    assert Texts.concatenate([]).tolist() == []
