"""A few trials of ``tests/damage.py``, so that what it promises is looked at with every change."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from damage import KINDS, Ground, prepare, run_trial
from support import again, bundled

from vmaforensics.errors import ExitCode
from vmaforensics.image.overlay import Overlay
from vmaforensics.kernel.structures.btf import Btf
from vmaforensics.kernel.structures.btf_records import STRUCT
from vmaforensics.kernel.symbols.kallsyms import Kallsyms
from vmaforensics.report.document.build import build_document

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


def test_planted_links_do_not_bury_what_is_hidden() -> None:
    """A VMA taken out of its maple tree, beside a thousand links that somebody broke in all other processes."""
    sample = next(sample for sample in bundled() if sample.name == "tampered-6.1")
    clean = sample.analysis
    hidden = [finding.mm for finding in clean.findings if finding.rule.id == "VMA-MISSING"]
    vmas, maple = clean.views.vmas, clean.views.maple
    assert maple is not None
    others = np.isin(vmas.vma, maple.vma[~np.isin(maple.mm, hidden)])
    planted = np.random.default_rng(0).choice(vmas.vma[others & (vmas.anon_vma != 0)], 1000, replace=False)
    memory = Overlay(clean.image.memory)
    at = planted + np.uint64(clean.kernel.offset("vm_area_struct", "anon_vma"))
    pas, _, mapped = clean.kernel.space.translate(at)
    assert mapped.all()
    for pa, vma in zip(pas.tolist(), planted.tolist(), strict=True):
        memory.write(pa, (vma + 8).to_bytes(8, "little"))
    document = build_document(again(clean, memory))
    assert document.findings[0].rule == "VMA-MISSING"
    assert document.findings[0].mm in map(hex, hidden)
    assert 20 < len(document.findings) <= 200
    assert "more like these" in " ".join(finding.title for finding in document.findings)


def _zeroed(ground: Ground, addresses: np.ndarray, size: int) -> Overlay:
    """The image with ``size`` bytes of zeros at each of these addresses of the kernel."""
    memory = Overlay(ground.image.memory)
    pas, _, mapped = ground.kernel.space.translate(addresses.astype(np.uint64))
    assert mapped.all()
    for pa in pas.tolist():
        memory.write(pa, bytes(size))
    return memory


def _btf(ground: Ground) -> tuple[Btf, int]:
    types, start = ground.kernel.types, ground.kernel.symbols.get("__start_BTF")
    assert isinstance(types, Btf)
    assert start is not None
    return types, start


def test_types_of_memory_maps_that_are_lost_cost_no_process(ground: Ground) -> None:
    types, start = _btf(ground)
    starts = types.starts.tolist()
    kinds = (types.words[types.starts + 1] >> 24) & 0x7F
    lost: list[int] = []
    for row in np.flatnonzero(kinds == STRUCT).tolist():
        if types.string(int(types.words[starts[row]])) in {"mm_struct", "vm_area_struct"}:
            lost += range(starts[row], starts[row + 1])
    header = int.from_bytes(types.blob[4:8], "little")
    memory = _zeroed(ground, np.uint64(start + header) + np.uint64(4) * np.array(lost, np.uint64), 4)
    image = replace(ground.image, memory=memory)
    outcome = run_trial(0, "", image, ground, [("maps", "damaged.image"), ("views", "damaged.image", "--pid", "1")])
    assert outcome.wrong == []
    assert outcome.codes["report"] == 0
    assert outcome.missed == 0
    assert outcome.processes >= len(ground.tasks)


def test_damaged_types_are_found_without_symbols(ground: Ground) -> None:
    _, start = _btf(ground)
    tables = ground.kernel.symbols
    assert isinstance(tables, Kallsyms)
    assert tables.tables is not None
    token = (tables.tables.token_table + tables.place) % (1 << 64)
    pages = np.array([start + (100 << 12), start + (200 << 12), token, token + 4096], np.uint64)
    memory = _zeroed(ground, pages & np.uint64(0xFFFF_FFFF_FFFF_F000), 4096)
    outcome = run_trial(0, "", replace(ground.image, memory=memory), ground, [])
    assert outcome.wrong == []
    assert outcome.codes["report"] == 0
    assert outcome.missed == 0
