"""Numbers and amounts read as a person would say them."""

from __future__ import annotations

import pytest

from vmaforensics.words.amounts import amount, counted, pages, plural


@pytest.mark.parametrize(("count", "said"), [(0, "processes"), (1, "process"), (2, "processes")])
def test_a_noun_is_in_the_number_that_fits(count: int, said: str) -> None:
    assert plural(count, "process", "es") == said


def test_thousands_are_set_apart() -> None:
    assert [counted(count, "page") for count in (0, 1, 2, 2048)] == ["0 pages", "1 page", "2 pages", "2,048 pages"]


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (772 << 10, "772 KiB"), (1 << 20, "1 MiB"), (3 << 59, "1.5 EiB")],
)
def test_an_amount_is_in_the_largest_unit_that_leaves_one(size: int, said: str) -> None:
    assert amount(size) == said


def test_an_amount_that_rounds_up_to_a_unit_is_in_that_unit() -> None:
    assert amount((1 << 20) - 1) == "1 MiB"


def test_pages_say_how_much_memory_they_are() -> None:
    assert pages(1, 4096) == "1 page, 4 KiB"
    assert pages(2560, 4096) == "2560 pages, 10 MiB"
    assert pages(1, 1 << 16) == "1 page, 64 KiB"
