"""What is read together is scanned as it lies, and memory of zeros as any other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.arch.known import ARCHITECTURES
from vmaforensics.image.open import open_image
from vmaforensics.scan.places import PlaceKind
from vmaforensics.scan.plan import PlanPages, Stretches
from vmaforensics.scan.rules import compile_rules
from vmaforensics.scan.worker import Settings, Worker

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("yara_x")

PAGE = 4096
LONG = 100  # pages
RULES = """
rule zeros { strings: $a = { 00 00 00 00 00 00 00 00 } condition: $a at 50 }
rule length { condition: filesize == 409600 }
rule word { strings: $a = "over the border" condition: $a }
"""


def test_memory_of_zeros_matches_as_any_other(tmp_path: Path) -> None:
    raw = bytearray(4 * LONG * PAGE)
    raw[3 * LONG * PAGE - 4 : 3 * LONG * PAGE + 11] = b"over the border"  # the first page of the last part goes before
    image, rules = tmp_path / "raw", tmp_path / "rules.yar"
    image.write_bytes(raw)
    rules.write_text(RULES)
    memory = open_image([image]).memory
    (arch,) = ARCHITECTURES
    # Two stretches of zeros, a page of them, and pages that lie the other way round in memory; then nothing at all.
    pages = [*range(LONG), *range(LONG, 2 * LONG), 7, 3 * LONG - 1, 3 * LONG, 0, 0]
    held = [True] * (len(pages) - 2) + [False] * 2
    stretches = Stretches.of(
        first=np.array([0, LONG, 2 * LONG, 2 * LONG + 1, 2 * LONG + 3]),
        count=np.array([LONG, LONG, 1, 2, 2]),
        kind=np.full(5, PlaceKind.FREE),
        owner=np.zeros(5),
        at=np.zeros(5),
    )
    plan = PlanPages.of(pfn=np.array(pages), held=np.array(held))
    kernel = SimpleNamespace(memory=memory, arch=arch)
    settings = Settings(rules=compile_rules([rules]).serialized)
    found = list(Worker(kernel, stretches, plan, settings).scan(slice(0, 5)))  # type: ignore[arg-type]
    assert {one.stretch: sorted(rule.rule for rule in one.rules) for one in found} == {
        0: ["length", "zeros"],
        1: ["length", "zeros"],
        2: ["zeros"],
        3: ["word", "zeros"],
    }
    (word,) = (rule.hits for one in found for rule in one.rules if rule.rule == "word")
    assert [(hit.offset, hit.data) for hit in word] == [(PAGE - 4, b"over the border")]
    assert not any(one.missing for one in found)
