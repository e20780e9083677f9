"""The layer over the engine's readers: what volatility3 asks of a layer, on small files made here."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("volatility3")

from image import build
from volatility3.framework import contexts, exceptions, interfaces
from volatility3.framework.automagic import construct_layers
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import physical, scanners

from vmaforensics.volatility.layers.image_layer import ImageLayer
from vmaforensics.volatility.layers.image_stacker import ImageStacker
from vmaforensics.volatility.layers.parts import parts_of

if TYPE_CHECKING:
    from pathlib import Path

PAGE = build.PAGE
MARK = b"found me!"
# 0x10 and 0x11 hold bytes, 0x12 is zero, 0x13 was filtered; nothing else is RAM.
PAGES = {
    0x10: build.page(1),
    0x11: build.page(2)[: -len(MARK)] + MARK,
    0x12: build.ZERO,
    0x13: None,
    0x14: build.page(3)[: -len(MARK)] + MARK,
}


def stacked(path: Path) -> interfaces.layers.DataLayerInterface | None:
    """What the stacker makes of a file."""
    context = contexts.Context()
    context.config["base.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "base", "base"))
    layer = ImageStacker.stack(context, "base")
    if layer is not None:
        context.add_layer(layer)
    return layer


@pytest.fixture
def layer(tmp_path: Path) -> ImageLayer:
    path = tmp_path / "image.kdump"
    path.write_bytes(build.Kdump(pages=PAGES).build())
    made = stacked(path)
    assert isinstance(made, ImageLayer)
    return made


def test_bytes_are_those_of_the_image_over_page_bounds(layer: ImageLayer) -> None:
    whole = b"".join(PAGES[frame] or b"" for frame in (0x10, 0x11, 0x12))
    assert layer.read(0x10000, 3 * PAGE) == whole
    assert layer.read(0x10FF0, 0x20) == whole[0xFF0:0x1010]
    assert layer.read(0x10FF0, 0x20) == whole[0xFF0:0x1010]  # from the cache this time


def test_what_is_not_in_the_dump_is_invalid_and_zeros_only_when_asked_for(layer: ImageLayer) -> None:
    assert layer.is_valid(0x10000, 3 * PAGE)
    assert not layer.is_valid(0x13000)
    assert not layer.is_valid(0x12FFF, 2)
    assert not layer.is_valid(0x10000, 5 * PAGE)
    assert not layer.is_valid(-1)
    assert not layer.is_valid(1 << 60)
    with pytest.raises(exceptions.InvalidAddressException, match="not in the dump") as caught:
        layer.read(0x12FF0, 0x20)
    assert caught.value.invalid_address == 0x13000
    data = layer.read(0x12FFF, PAGE + 2, pad=True)
    assert data == bytes(PAGE + 1) + (PAGES[0x14] or b"")[:1]
    assert layer.read(0x5000, 16, pad=True) == bytes(16)


def test_a_scan_loses_nothing_beside_a_hole(layer: ImageLayer) -> None:
    context = layer.context
    hits = list(layer.scan(context, scanners.BytesScanner(MARK)))
    assert hits == [0x12000 - len(MARK), 0x15000 - len(MARK)]


def test_a_match_across_pages_is_found(tmp_path: Path) -> None:
    path = tmp_path / "image.kdump"
    first, second = build.page(1)[:-4] + MARK[:4], MARK[4:] + build.page(2)[5:]
    path.write_bytes(build.Kdump(pages={0x10: first, 0x11: second}).build())
    made = stacked(path)
    assert made is not None
    assert list(made.scan(made.context, scanners.BytesScanner(MARK))) == [0x11000 - 4]


def test_clones_copy_no_memory_and_read_the_same(layer: ImageLayer) -> None:
    layer.read(0x10000, 16)
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.context.clone().layers[layer.name]):
        assert clone._pages == {}
        assert clone.read(0x10000, 2 * PAGE) == layer.read(0x10000, 2 * PAGE)
        assert clone.image is layer.image  # opened once per process


def test_it_is_rebuilt_from_its_configuration(layer: ImageLayer) -> None:
    context = contexts.Context()
    context.config.splice("plugins.Some.primary", layer.build_configuration())
    wanted = requirements.MultiRequirement(name="Some")
    wanted.add_requirement(requirements.TranslationLayerRequirement(name="primary"))
    construct_layers.ConstructionMagic(context, "automagic.ConstructionMagic")(context, "plugins", wanted)
    again = context.layers[context.config["plugins.Some.primary"]]
    assert isinstance(again, ImageLayer)
    assert again.read(0x11000, PAGE) == PAGES[0x11]


def test_an_image_is_not_written_to(layer: ImageLayer) -> None:
    layer.write(0x10000, b"xx")
    assert layer.read(0x10000, PAGE) == PAGES[0x10]


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (build.elf([build.Load(pa=0x1000, data=build.page(1))]), False),
        (build.elf([build.Load(pa=0x1000, data=build.page(1), memsz=2 * PAGE)]), True),
        (build.elf([build.Load(pa=0x1000, data=build.page(1))], phoff=128, extended=True), True),
        (build.elf([build.Load(pa=0x1000, data=build.page(1))])[:-16], True),
        (build.lime([(0x1000, build.page(1))]), True),
        (build.lime([(0x1000, build.page(1))])[:-16], True),
        (build.Kdump(pages={1: build.page(1)}).build(), True),
        (bytes(1 << 20), False),
        (b"plain text\n" * 100, False),
        (b"MZ" + bytes(100), False),
    ],
    ids=["elf", "holes", "PN_XNUM", "cut elf", "lime", "cut lime", "kdump", "raw", "text", "small"],
)
def test_files_volatility3_reads_rightly_are_left_to_it(tmp_path: Path, content: bytes, ours: bool) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert isinstance(stacked(path), ImageLayer) is ours


def test_the_other_parts_of_a_split_dump_are_found_beside_it(tmp_path: Path) -> None:
    windows = ((0, 0x12), (0x12, 0x20))
    parts = [tmp_path / name for name in ("zz-first", "aa-second")]
    for path, window in zip(parts, windows, strict=True):
        path.write_bytes(build.Kdump(pages=PAGES, split=window, time=7).build())
    (tmp_path / "of-another-time").write_bytes(build.Kdump(pages=PAGES, split=(0, 0x12), time=8).build())
    (tmp_path / "whole").write_bytes(build.Kdump(pages=PAGES, time=7).build())
    (tmp_path / "folder").mkdir()
    for path in parts:
        assert parts_of(path) == parts
        made = stacked(path)
        assert made is not None
        assert made.read(0x10000, 2 * PAGE) == (PAGES[0x10] or b"") + (PAGES[0x11] or b"")
        assert made.read(0x14000, PAGE) == PAGES[0x14]
    assert parts_of(tmp_path / "whole") == [tmp_path / "whole"]
