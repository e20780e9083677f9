"""Rows of every plugin on an image with pages missing, and with pages of garbage."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("volatility3")

from volatility3.framework import renderers

from vmaforensics.checks.context import Context
from vmaforensics.checks.weigh import run_checks
from vmaforensics.image.open import open_image
from vmaforensics.image.overlay import Overlay
from vmaforensics.image.placed import PageState
from vmaforensics.kernel.find import find_kernel
from vmaforensics.views.gather import EXTRA, gather_views
from vmaforensics.volatility.rows import findings, maps, pages, regions
from vmaforensics.volatility.rows.session import Session

from .conftest import ROOT

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE = ROOT / "samples/debian-6.1/image.kdump"


def some(frames: NDArray[np.uint64], share: float) -> NDArray[np.uint64]:
    return frames[np.random.default_rng(7).random(len(frames)) < share]


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample is not there")
@pytest.mark.parametrize(("share", "garbage"), [(0.03, False), (0.3, False), (0.02, True)])
def test_rows_go_on_where_parts_of_the_image_are_broken(share: float, garbage: bool) -> None:
    image = open_image(SAMPLE)
    frames = np.arange(int(image.memory.ranges[-1, 1]) >> 12, dtype=np.uint64)
    frames = some(frames[image.memory.page_states(frames) == PageState.PRESENT], share)
    kernel = find_kernel(image)
    noise = np.random.default_rng(8).bytes(4096)
    overlay = Overlay(image.memory)
    if not garbage:
        overlay.drop(frames)
    for frame in frames.tolist() if garbage else ():
        overlay.write(frame << 12, noise)
    kernel.memory = kernel.space.memory = overlay
    views = gather_views(kernel, image.cpus, EXTRA)
    session = Session(image=replace(image, memory=overlay), kernel=kernel, views=views)
    grids: list[tuple[list[tuple[str, type]], Any]] = [
        (regions.COLUMNS, ((0, row) for row in regions.region_rows(views))),
        (maps.COLUMNS, ((0, row) for row in maps.map_rows(session))),
        (pages.COLUMNS, ((0, row) for row in pages.page_rows(session))),
        (findings.COLUMNS, findings.finding_rows(run_checks(Context(views)))),
    ]
    for columns, rows in grids:
        grid = renderers.TreeGrid(columns, rows)
        grid.populate(fail_on_errors=True)  # checks the type of every value, too
        assert grid.populated
        assert grid.row_count or share > 0.1
