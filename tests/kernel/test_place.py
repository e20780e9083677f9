"""Where an earlier run found the kernel is looked at first, proved as ever, and changes no answer."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics import cache
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.image.contents import contents_key
from vmaforensics.image.open import open_image
from vmaforensics.image.overlay import Overlay
from vmaforensics.image.placed import PAGE_SIZE
from vmaforensics.kernel import find
from vmaforensics.kernel.survey import Survey
from vmaforensics.kernel.symbols import vmcoreinfo, window

if TYPE_CHECKING:
    from pathlib import Path

    from support import Sample

    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel


@pytest.fixture(autouse=True)
def kept_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the entries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(cache.OFF, raising=False)
    return tmp_path / "vmaforensics" / "found"


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was searched for; cleared by the test."""
    calls: list[str] = []
    for holder, name in ((window, "symbols_from"), (Survey, "_read_on")):
        whole = getattr(holder, name)

        def heard(*arguments: object, name: str = name, whole: object = whole) -> object:
            calls.append(name)
            return whole(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(holder, name, heard)
    return calls


def raw_file(sample: Sample, path: Path, *, info: bool, before: int = 0) -> Path:
    """The memory of a sample as a raw, sparse file, with ``before`` bytes in front; without VMCOREINFO if so asked."""
    image = open_image(sample.image_path)
    memory = image.memory
    pages = [] if info else [int(found.source.rpartition(" ")[2], 16) // PAGE_SIZE for found in vmcoreinfo.scan(memory)]
    with path.open("wb") as stream:
        for pa, piece in memory.chunks():
            stream.seek(before + pa)
            stream.write(piece.tobytes())
        for page in pages:
            stream.seek(before + page * PAGE_SIZE)
            stream.write(bytes(PAGE_SIZE))
        stream.truncate(before + int(memory.ranges[-1, 1]))
    return path


def said(kernel: Kernel) -> dict[str, object]:
    """All that a report says of a kernel."""
    return asdict(kernel.identity) | {"runs": kernel.space.runs.to_structured().tobytes(), "of it": len(kernel.symbols)}


def test_the_second_run_searches_for_nothing_and_finds_the_same(sample: Sample, searched: list[str]) -> None:
    first = find.find_kernel(open_image(sample.image_path))
    assert searched
    searched.clear()
    second = find.find_kernel(open_image(sample.image_path))
    assert searched == []
    assert said(first) == said(second)


@pytest.mark.parametrize("info", [True, False])
@pytest.mark.parametrize("before", [0, 1 << 20])
def test_a_raw_file_is_searched_once(
    maple_sample: Sample, tmp_path: Path, searched: list[str], info: bool, before: int
) -> None:
    path = raw_file(maple_sample, tmp_path / "image.raw", info=info, before=before)
    try:
        first = find.find_kernel(open_image(path))
    except KernelNotFoundError:
        pytest.skip("this excerpt does not hold what such a search goes by")
    assert searched
    searched.clear()
    second = find.find_kernel(open_image(path))
    assert searched == []
    assert said(first) == said(second)
    with cache.without():
        assert said(find.find_kernel(open_image(path))) == said(second)


@pytest.mark.parametrize(
    "wrong",
    [
        {"table": 0},
        {"table": (1 << 52) - 1},
        {"index": 1},
        {"before": 1 << 51, "after": 1 << 51},
        {"before": 0, "after": 0},
        {"info": 4096},
        {"shift": 4096},
        {"shift": 1 << 60},
        {"shift": -(1 << 60)},
        {"sha256": "0" * 64},
        {"table": "1"},
        {"table": True},
        {"table": None},
        {"sha256": None},
        {"more": 1},
    ],
)
def test_a_planted_place_costs_a_search_and_no_more(
    maple_sample: Sample, kept_in: Path, searched: list[str], wrong: dict[str, object], tmp_path: Path
) -> None:
    path = maple_sample.image_path
    first = said(find.find_kernel(open_image(path)))
    (entry,) = kept_in.iterdir()
    whole = json.loads(entry.read_bytes())["content"]
    cache.keep("kernel", entry.stem.removeprefix("kernel-"), whole | wrong)
    searched.clear()
    assert said(find.find_kernel(open_image(path))) == first
    assert searched
    searched.clear()
    assert json.loads(entry.read_bytes())["content"] == whole
    assert said(find.find_kernel(open_image(path))) == first
    assert not searched


def test_another_kernels_place_is_not_believed(
    maple_sample: Sample, list_sample: Sample, kept_in: Path, searched: list[str]
) -> None:
    find.find_kernel(open_image(maple_sample.image_path))
    (entry,) = kept_in.iterdir()
    key = contents_key(open_image(list_sample.image_path))
    assert key is not None
    cache.keep("kernel", key, json.loads(entry.read_bytes())["content"])
    found = find.find_kernel(open_image(list_sample.image_path))
    assert said(found) == said(list_sample.analysis.kernel)


def test_nothing_is_kept_of_an_image_that_was_edited(maple_sample: Sample, kept_in: Path) -> None:
    from dataclasses import replace

    image = open_image(maple_sample.image_path)
    edited: Image = replace(image, memory=Overlay(image.memory))
    assert contents_key(edited) is None
    find.find_kernel(edited)
    assert not kept_in.exists()


def test_an_excerpt_keeps_what_a_search_reads(maple_sample: Sample, searched: list[str]) -> None:
    find.find_kernel(open_image(maple_sample.image_path))
    searched.clear()
    image = open_image(maple_sample.image_path)
    image.memory.start_trace()
    find.find_kernel(image)
    assert searched


def test_the_key_is_that_of_the_contents(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 4 << 20, np.uint8).tobytes()
    (tmp_path / "a.raw").write_bytes(data)
    (tmp_path / "b.raw").write_bytes(data)
    (tmp_path / "c.raw").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (tmp_path / "d.raw").write_bytes(data[:-1])
    keys = [contents_key(open_image(tmp_path / f"{name}.raw")) for name in "abcd"]
    assert keys[0] == keys[1] is not None
    assert len({*keys}) == 3
