"""What the registers of a complaint lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaforensics.crash.trail.objects import SlabObject
    from vmaforensics.crash.trail.records import Records


class Target(NamedTuple):
    """What a register leads to."""

    register: str
    value: int
    found: SlabObject


def targets_of(records: Records, registers: Mapping[str, int]) -> list[Target]:
    """The registers that lead into slab objects, objects led to directly first."""
    found = []
    records.objects.look_up(np.array(list(registers.values()), np.uint64))
    for name, value in registers.items():
        target = records.objects.at(value)
        if target is not None:
            found.append(Target(name, value, target))
    return sorted(found, key=lambda target: target.found.offset != 0)
