"""Batches by memory, and work in threads that comes back in order."""

from __future__ import annotations

import time

import pytest

from vmaforensics.image import limits
from vmaforensics.image.limits import Limits


def test_all_batches_together_take_an_eighth_of_the_memory() -> None:
    assert Limits(memory=1 << 30).batch(256, 1 << 30) == (1 << 30) // 8 // 2 // 256
    assert Limits(memory=1 << 30, jobs=7).batch(256, 1 << 30) == (1 << 30) // 8 // 8 // 256
    assert Limits(memory=1 << 30).batch(256, 1000) == 1000
    assert Limits(memory=0).batch(1 << 40, 1000) == 1  # there is always one


def test_by_default_half_of_what_is_free_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "free_memory", lambda: 4 << 30)
    assert Limits().batch(256, 1 << 30) == Limits(memory=2 << 30).batch(256, 1 << 30)


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_work_comes_back_in_order(jobs: int) -> None:
    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    assert list(Limits(jobs=jobs).each(slow, range(20))) == [number * number for number in range(20)]
    assert list(Limits(jobs=jobs).each(slow, [])) == []


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_goes_wrong_in_a_thread_is_told_where_its_result_would_be(jobs: int) -> None:
    def work(number: int) -> float:
        return 1 / number

    done = Limits(jobs=jobs).each(work, [1, 2, 0, 4])
    assert [next(done), next(done)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(done)


def test_nobody_has_to_ask_for_all() -> None:
    done = Limits(jobs=3).each(str, range(1000))
    assert next(done) == "0"
    done.close()  # type: ignore[attr-defined]
