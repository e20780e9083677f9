"""Samples for every test: images of real kernels with the guest's own record of what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import NO_SAMPLE, SAMPLES, Sample

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Every image there is; skips if there is none."""
    if not SAMPLES:
        pytest.skip(NO_SAMPLE)
    return SAMPLES


@pytest.fixture(scope="session", params=SAMPLES or [None], ids=lambda one: one.name if one else "none")
def sample(request: pytest.FixtureRequest) -> Sample:
    """Each image in turn."""
    if request.param is None:
        pytest.skip(NO_SAMPLE)
    found: Sample = request.param
    return found


def _first(samples: list[Sample], fits: Callable[[Sample], bool], what: str) -> Sample:
    for one in samples:
        if fits(one):
            return one
    pytest.skip(f"no sample of a kernel with {what}")


@pytest.fixture(scope="session")
def maple_sample(samples: list[Sample]) -> Sample:
    """An image of a kernel that keeps areas in a maple tree."""
    return _first(samples, lambda one: one.analysis.views.maple is not None, "a maple tree")


@pytest.fixture(scope="session")
def list_sample(samples: list[Sample]) -> Sample:
    """An image of a kernel that keeps areas in a list and a red-black tree."""
    return _first(samples, lambda one: one.analysis.views.vma_list is not None, "a list of areas")


@pytest.fixture(scope="session", params=["list", "maple"])
def either_sample(request: pytest.FixtureRequest) -> Sample:
    """One image of each kind of index."""
    found: Sample = request.getfixturevalue(f"{request.param}_sample")
    return found
