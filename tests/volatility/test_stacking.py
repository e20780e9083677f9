"""Layers for plugins that need physical memory only: formats are stacked, kernels are not searched for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import zstandard

pytest.importorskip("volatility3")

from volatility3.framework import automagic, contexts
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import elf

from vmaforensics.image.formats.raw import RawMemory, Stretch
from vmaforensics.image.open import open_image
from vmaforensics.volatility.layers.image_stacker import ours
from vmaforensics.volatility.layers.stacking import PhysicalLayerRequirement, PhysicalStacker

from .test_layer_memory import elf_file

if TYPE_CHECKING:
    from pathlib import Path

    from volatility3.framework.interfaces.configuration import RequirementInterface


def stack(path: Path, wanted: RequirementInterface) -> contexts.Context:
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = path.as_uri()
    plugin = requirements.MultiRequirement(name="Plugin")
    plugin.add_requirement(wanted)
    PhysicalStacker(context, "automagic.PhysicalStacker")(context, "plugins", plugin)
    return context


def test_formats_are_stacked_and_kernels_are_not_searched_for(tmp_path: Path) -> None:
    path = elf_file(tmp_path / "image.elf", (0x1000, bytes(8192)))
    context = stack(path, PhysicalLayerRequirement(name="primary"))
    assert isinstance(context.layers[context.config["plugins.Plugin.primary"]], elf.Elf64Layer)
    asked = context.config["automagic.PhysicalStacker.stackers"]
    assert "Elf64Stacker" in asked
    assert not [name for name in asked if name.startswith(("LinuxIntel", "MacIntel"))]
    # Whoever uses the context next still has volatility3's own choice.
    assert context.config.get("automagic.LayerStacker.stackers", None) is None


def test_other_plugins_are_left_alone(tmp_path: Path) -> None:
    path = elf_file(tmp_path / "image.elf", (0x1000, bytes(8192)))
    context = stack(path, requirements.TranslationLayerRequirement(name="primary"))
    assert len(context.layers) == 0


def test_volatility3_finds_it_and_runs_it_first() -> None:
    order = [type(one).__name__ for one in automagic.available(contexts.Context())]
    assert order.index("PhysicalStacker") < order.index("LayerStacker")


def test_raw_memory_is_ours_where_it_does_not_lie_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "image"
    data = bytes(range(256)) * (1 << 13)
    path.write_bytes(data)
    image = open_image(path)
    assert isinstance(image.memory, RawMemory)
    assert not ours(image)
    image.memory.place([Stretch(0, 0, len(data)), Stretch(len(data), len(data), 4096)])  # cut short
    assert not ours(image)
    image.memory.place([Stretch(0, 0, 1 << 20), Stretch(1 << 32, 1 << 20, 1 << 20)])
    assert ours(image)
    path.write_bytes(zstandard.compress(data))
    assert ours(open_image(path))
