"""A few trials of ``tests/damage.py``, so that what it promises is looked at with every change."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from damage import KINDS, Ground, prepare, run_trial

from vmaforensics.errors import ExitCode

if TYPE_CHECKING:
    from support import Sample


@pytest.fixture(scope="module")
def ground(maple_sample: Sample) -> Ground:
    return prepare(maple_sample.image_path, None)


@pytest.mark.parametrize("damage", dict.fromkeys(KINDS), ids=lambda damage: damage.__name__)
def test_what_is_damaged_costs_no_process(ground: Ground, damage: object) -> None:
    rng = np.random.default_rng(2)
    assert callable(damage)
    image = replace(ground.image, memory=damage(rng, ground))
    outcome = run_trial(2, "", image, ground, [("info", "damaged.image")])
    assert outcome.wrong == []
    assert set(outcome.codes.values()) <= set(ExitCode) - {ExitCode.INTERNAL}
    assert outcome.missed == 0
