"""Address spaces for volatility3, against the engine's own reading of the same page tables."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

pytest.importorskip("volatility3")

from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import intel, physical

from vmaforensics.arch.page_tables import PteState
from vmaforensics.views.gather import gather_views
from vmaforensics.volatility.layers.image_stacker import ImageStacker
from vmaforensics.volatility.layers.intel_layer import LinuxIntel32eLA57
from vmaforensics.volatility.layers.kernel_stacker import LinuxKernelStacker
from vmaforensics.volatility.layers.opened import opened

from .conftest import ROOT

FOUR, FIVE = ROOT / "samples/debian-6.1/image.kdump", ROOT / "samples/debian-6.1-la57/image.kdump"

pytestmark = pytest.mark.skipif(not FOUR.exists() or not FIVE.exists(), reason="the samples are not there")


@pytest.fixture(params=[FOUR, FIVE], ids=["4 levels", "5 levels"])
def stacked(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """(subject, the kernel's address space) of a sample."""
    context = contexts.Context()
    context.config["base.location"] = request.param.as_uri()
    context.add_layer(physical.FileLayer(context, "base", "base"))
    image = ImageStacker.stack(context, "base")
    assert image is not None
    context.add_layer(image)
    layer = LinuxKernelStacker.stack(context, image.name)
    assert layer is not None
    context.add_layer(layer)
    assert LinuxKernelStacker.stack(context, layer.name) is None  # not on top of itself
    return opened(request.param), layer


def test_the_class_follows_the_levels_of_the_image(stacked: tuple[Any, Any]) -> None:
    subject, layer = stacked
    expected = LinuxIntel32eLA57 if subject.kernel.identity.levels == 5 else intel.LinuxIntel32e
    assert type(layer) is expected
    assert layer.metadata["os"] == "Linux"
    assert layer.maximum_address == (1 << (57 if expected is LinuxIntel32eLA57 else 48)) - 1


def test_kernel_addresses_translate_as_the_engine_does(stacked: tuple[Any, Any]) -> None:
    subject, layer = stacked
    space = subject.kernel.space
    runs = space.runs.take(np.linspace(0, len(space.runs) - 1, 200).astype(np.int64))
    for start, pa in zip(runs.start.tolist(), runs.pa.tolist(), strict=True):
        assert layer._translate(layer.decanonicalize(start))[0] == pa, hex(start)
    banner = subject.kernel.symbols.get("linux_banner")
    assert layer.read(layer.decanonicalize(banner), 14) == b"Linux version "
    assert layer.canonicalize(layer.decanonicalize(banner)) == banner
    with pytest.raises(exceptions.InvalidAddressException):
        layer.read(layer.decanonicalize(0xFFFFFFFFFFFFF000), 8)


def test_user_pages_translate_as_the_engine_does(stacked: tuple[Any, Any]) -> None:
    subject, layer = stacked
    views = gather_views(subject.kernel, wanted=("page-tables",))
    view = views.page_tables
    assert view is not None
    checked = {PteState.PRESENT: 0, PteState.SWAP: 0}
    for row in range(len(views.mms)):
        ptes = view.ptes.take(view.ptes.mm_row == row)
        if not len(ptes):
            continue
        pgd, _, _ = subject.kernel.space.translate(views.mms.pgd[row : row + 1])
        context, name = layer.context, f"process{row}"
        context.config[f"{name}.memory_layer"] = layer.config["memory_layer"]
        context.config[f"{name}.page_map_offset"] = int(pgd[0])
        mine = type(layer)(context, name, name)
        for state in checked:
            some = ptes.take((ptes.state == state) & (ptes.level == 1)).take(slice(8))
            for va, pfn in zip(some.va.tolist(), some.pfn.tolist(), strict=True):
                if state == PteState.SWAP:
                    with pytest.raises(exceptions.InvalidAddressException):
                        mine.translate(va)
                else:
                    assert mine._translate(va)[0] == pfn << 12, (row, hex(va))
                checked[state] += 1
    assert checked[PteState.PRESENT] > 100


def test_prot_none_entries_are_translated_with_five_levels() -> None:
    """Their page frame is kept inverted: pte_pfn and protnone_mask, arch/x86/include/asm/pgtable-invert.h."""
    tables = [bytearray(4096) for _ in range(5)]
    va, frame = 0x00AB_CDEF_0123_4000, 0x12345
    for depth in range(4):
        struct.pack_into("<Q", tables[depth], (va >> (48 - 9 * depth) & 511) * 8, (depth + 1) << 12 | 0x67)
    inverted = ~(frame << 12) & ((1 << 52) - 1) & ~0xFFF | 1 << 8  # _PAGE_PROTNONE, not _PAGE_PRESENT
    struct.pack_into("<Q", tables[4], (va >> 12 & 511) * 8, inverted)
    context = contexts.Context()
    context.add_layer(physical.BufferDataLayer(context, "memory", "memory", b"".join(tables)))
    context.config["space.memory_layer"], context.config["space.page_map_offset"] = "memory", 0
    assert LinuxIntel32eLA57(context, "space", "space")._translate(va | 0x123)[0] == frame << 12 | 0x123
