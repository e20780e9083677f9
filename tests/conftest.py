"""Samples for every test: images of real kernels with the guest's own record of what they hold."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support import FURTHER, HOLDERS, KEPT, NO_SAMPLE, SAMPLES, TAMPERED, WHOLE, Sample

if TYPE_CHECKING:
    from collections.abc import Callable

# No test may know what another one found; those of the cache switch it on, in a folder of their own.
os.environ["VMAFORENSICS_NO_CACHE"] = "1"


# Fixtures that hand out an image of a whole kernel, or what a whole program made of one: what asks for them is in the
# slow lane. A test that takes neither, and yet runs programs on samples, carries the mark itself.
_WHOLE = {
    *(
        "samples",
        "sample",
        "any_kernel",
        "whole_kernel",
        "tampered",
        "kept_guest",
        "holder_guest",
        "kernel_of",
        "tampered_one",
    ),
    *("maple_sample", "list_sample", "either_sample", "saved", "names", "vol"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what analyses images of whole kernels or runs whole programs: ``make test-fast`` does without."""
    for item in items:
        if _WHOLE.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.image)


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Every clean image there is; skips if there is none."""
    if not SAMPLES:
        pytest.skip(NO_SAMPLE)
    return SAMPLES


def _each(samples: list[Sample], absent: str) -> list[object]:
    """Parameters for ``samples``; if there are none, one that skips."""
    skipped = pytest.param(None, marks=pytest.mark.skip(reason=absent), id="none")
    return [pytest.param(sample, id=sample.name) for sample in samples] or [skipped]


@pytest.fixture(scope="session", params=_each(SAMPLES, NO_SAMPLE))
def sample(request: pytest.FixtureRequest) -> Sample:
    """Each clean image in turn."""
    found: Sample = request.param
    return found


@pytest.fixture(scope="session", params=_each([*SAMPLES, *FURTHER], NO_SAMPLE))
def any_kernel(request: pytest.FixtureRequest) -> Sample:
    """Each clean image, and those of further kernels that happen to be there."""
    found: Sample = request.param
    return found


@pytest.fixture(scope="session", params=_each(WHOLE or SAMPLES, NO_SAMPLE))
def whole_kernel(request: pytest.FixtureRequest) -> Sample:
    """Each encoding of symbols, from whole images where the recipe has made them: excerpts hold only what an
    analysis has read."""
    found: Sample = request.param
    return found


@pytest.fixture(scope="session", params=_each(TAMPERED, "no bundled sample has been edited"))
def tampered(request: pytest.FixtureRequest) -> Sample:
    """Each bundled image that was edited, with what was done to it."""
    found: Sample = request.param
    return found


@pytest.fixture(scope="session", params=_each(KEPT, "no image of the recipe with the roles of guest/kept.c"))
def kept_guest(request: pytest.FixtureRequest) -> Sample:
    """Each image of a guest that keeps files in queues and rings, and runs code that was changed."""
    found: Sample = request.param
    return found


@pytest.fixture(scope="session", params=_each(HOLDERS, "no image of the recipe with the role of guest/holders.c"))
def holder_guest(request: pytest.FixtureRequest) -> Sample:
    """Each image of a guest whose processes keep pages that they do not map."""
    found: Sample = request.param
    return found


def _first(samples: list[Sample], fits: Callable[[Sample], bool], what: str) -> Sample:
    for sample in samples:
        if fits(sample):
            return sample
    pytest.skip(f"no sample of a kernel with {what}")


@pytest.fixture(scope="session")
def maple_sample(samples: list[Sample]) -> Sample:
    """An image of a kernel that keeps VMAs in a maple tree."""
    return _first(samples, lambda sample: sample.analysis.views.maple is not None, "a maple tree")


@pytest.fixture(scope="session")
def list_sample(samples: list[Sample]) -> Sample:
    """An image of a kernel that keeps VMAs in a list and a red-black tree."""
    return _first(samples, lambda sample: sample.analysis.views.vma_list is not None, "a list of VMAs")


@pytest.fixture(scope="session", params=["list", "maple"])
def either_sample(request: pytest.FixtureRequest) -> Sample:
    """One image of each kind of index."""
    found: Sample = request.getfixturevalue(f"{request.param}_sample")
    return found
