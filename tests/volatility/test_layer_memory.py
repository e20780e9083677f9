"""Images through volatility3's layers say what the engine's own readers say of the same bytes."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("volatility3")

from volatility3.framework import contexts, exceptions, interfaces
from volatility3.framework.layers import elf, intel, physical

from vmaforensics.errors import MemoryReadError, UnsupportedFormatError
from vmaforensics.image.open import open_image
from vmaforensics.image.placed import PageState
from vmaforensics.volatility.layers.adapter import physical_layer, subject_of_layer
from vmaforensics.volatility.layers.layer_memory import LayerMemory

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.memory import PhysicalMemory

PAGE = 4096


def random_bytes(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(1, 256, size, dtype=np.uint8).tobytes()


def file_layer(path: Path) -> tuple[contexts.Context, physical.FileLayer]:
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    layer = physical.FileLayer(context, "file", "file")
    context.add_layer(layer)
    return context, layer


def elf_layer(path: Path) -> tuple[contexts.Context, elf.Elf64Layer]:
    context, _ = file_layer(path)
    context.config["elf.base_layer"] = "file"
    layer = elf.Elf64Layer(context, "elf", "elf")
    context.add_layer(layer)
    return context, layer


def elf_file(path: Path, *segments: tuple[int, bytes]) -> Path:
    """An ELF core with these (physical address, bytes) segments."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    offset = 64 + 56 * len(segments)
    table = b""
    for pa, data in segments:
        table += struct.pack("<IIQQQQQQ", 1, 0, offset, 0, pa, len(data), len(data), 0)
        offset += len(data)
    path.write_bytes(head + table + b"".join(data for _, data in segments))
    return path


def same(one: PhysicalMemory, other: PhysicalMemory, top: int) -> None:
    """Both memories answer alike, everywhere below ``top`` and beyond."""
    rng = np.random.default_rng(2)
    np.testing.assert_array_equal(one.ranges, other.ranges)
    edges = np.unique(other.ranges).astype(np.int64)
    for size in (1, 8, 200, PAGE, 2 * PAGE + 5):
        near = (edges[:, None] + np.array([-size, 1 - size, -1, 0, 1])).ravel()
        pas = np.concatenate([rng.integers(0, top + 4 * PAGE, 3000), near[near >= 0]]).astype(np.uint64)
        for got, expected in zip(one.gather(pas, size), other.gather(pas, size), strict=True):
            np.testing.assert_array_equal(got, expected)
    pfns = np.concatenate([np.arange(top // PAGE + 4), [1 << 39, 1 << 50]]).astype(np.uint64)
    np.testing.assert_array_equal(one.page_states(pfns), other.page_states(pfns))
    for size in (1 << 24, 3 * PAGE, 1000):
        assert held(one, size) == held(other, size)


def held(memory: PhysicalMemory, size: int) -> dict[int, int]:
    found: dict[int, int] = {}
    last = -1
    for pa, piece in memory.chunks(size):
        assert pa > last
        assert len(piece) <= size
        found.update(enumerate(piece.tolist(), pa))
        last = pa + len(piece) - 1
    return found


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 100])
def test_a_plain_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "image.raw"
    path.write_bytes(random_bytes(size))
    memory = LayerMemory(file_layer(path)[1])
    same(memory, open_image(path).memory, size)
    assert memory.size == size
    assert memory.problems() == ()


@pytest.mark.parametrize("pages", [1, 7, 1 << 14])
def test_segments_holes_and_seams_inside_pages_with_any_cache(tmp_path: Path, pages: int) -> None:
    path = elf_file(
        tmp_path / "image.elf",
        (0x1000, random_bytes(40 * PAGE, 3)),
        (0x30000, random_bytes(PAGE + 100, 4)),
        (0x31000 + 100, random_bytes(PAGE, 5)),  # goes on inside a page
        (0x40010, random_bytes(64, 6)),
    )
    memory = LayerMemory(elf_layer(path)[1], cache_pages=pages)
    same(memory, open_image(path).memory, 0x42000)


def test_a_truncated_file_is_absent_and_not_zero(tmp_path: Path) -> None:
    path = elf_file(tmp_path / "image.elf", (0x1000, random_bytes(8 * PAGE)))
    whole = path.read_bytes()
    path.write_bytes(whole[: 64 + 56 + 5 * PAGE + 10])
    memory = LayerMemory(elf_layer(path)[1])
    same(memory, open_image(path).memory, 10 * PAGE)
    states = memory.page_states(np.array([0, 5, 6, 8, 9], np.uint64)).tolist()
    assert states == [PageState.NOT_RAM, *[PageState.PRESENT], *[PageState.ABSENT] * 2, PageState.NOT_RAM]
    with pytest.raises(MemoryReadError, match="not in the dump"):
        memory.read(7 * PAGE, 8)


class Flaky(physical.BufferDataLayer):  # type: ignore[misc]
    """A layer that claims more than it can read, as a decoder of damaged data does."""

    bad = frozenset({3, 4, 9})

    def read(self, address: int, length: int, pad: bool = False) -> bytes:
        if any(page in self.bad for page in range(address // PAGE, (address + length - 1) // PAGE + 1)):
            if address // PAGE == 9:
                raise ZeroDivisionError("a bug of the decoder")
            raise exceptions.InvalidAddressException(self.name, address, "cannot be decoded")
        data: bytes = super().read(address, length, pad)
        return data


def test_pages_a_layer_fails_to_read_are_absent_and_counted() -> None:
    data = random_bytes(12 * PAGE)
    memory = LayerMemory(Flaky(contexts.Context(), "flaky", "flaky", data))
    got, ok = memory.gather(np.arange(0, 12 * PAGE, PAGE, dtype=np.uint64), PAGE)
    assert np.flatnonzero(~ok).tolist() == [3, 4, 9]
    assert got[ok].tobytes() == b"".join(data[at * PAGE : (at + 1) * PAGE] for at in range(12) if at not in Flaky.bad)
    assert np.flatnonzero(memory.page_states(np.arange(12, dtype=np.uint64))).tolist() == [3, 4, 9]
    (problem,) = memory.problems()
    assert "3 pages absent" in problem
    pieces = [(pa, piece.tobytes()) for pa, piece in memory.chunks()]
    assert pieces == [
        (0, data[: 3 * PAGE]),
        (5 * PAGE, data[5 * PAGE : 9 * PAGE]),
        (10 * PAGE, data[10 * PAGE :]),
    ]


def test_a_local_file_is_opened_itself(tmp_path: Path) -> None:
    path = elf_file(tmp_path / "an image?#%41.elf", (0x1000, random_bytes(4 * PAGE)))
    context, _ = elf_layer(path)
    image = subject_of_layer(context, "elf").image
    assert (image.format, image.path) == ("elf", path)
    assert not isinstance(image.memory, LayerMemory)


def test_an_address_space_is_followed_down_to_its_memory(tmp_path: Path) -> None:
    path = elf_file(tmp_path / "image.elf", (0x1000, random_bytes(4 * PAGE)))
    context, layer = elf_layer(path)
    context.config["kernel.memory_layer"] = "elf"
    context.config["kernel.page_map_offset"] = 0x1000
    context.add_layer(intel.Intel32e(context, "kernel", "kernel"))
    assert physical_layer(context, "kernel") is layer
    assert subject_of_layer(context, "kernel").image.format == "elf"


def test_a_format_only_volatility3_knows_is_read_through_its_layer(tmp_path: Path) -> None:
    path = tmp_path / "image.vmem"
    data = random_bytes(1 << 20)
    path.write_bytes(data)
    context, _ = file_layer(path)

    class Upwards(elf.Elf64Layer):  # type: ignore[misc]
        def _load_segments(self) -> None:
            self._segments = [(0x100000, 0, 1 << 20, 1 << 20)]

    context.config["upwards.base_layer"] = "file"
    context.add_layer(Upwards(context, "upwards", "upwards"))
    image = subject_of_layer(context, "upwards").image
    assert isinstance(image.memory, LayerMemory)
    assert image.memory.read(0x100000, 1 << 20) == data
    assert image.memory.page_states(np.array([0], np.uint64)).tolist() == [PageState.NOT_RAM]


def test_a_compressed_file_is_read_as_volatility3_unpacks_it(tmp_path: Path) -> None:
    path = tmp_path / "image.raw.gz"
    data = random_bytes(1 << 20)
    path.write_bytes(gzip.compress(data, 1))
    context, layer = file_layer(path)
    if layer.maximum_address + 1 != len(data):
        pytest.skip("this volatility3 does not unpack gzip")
    image = subject_of_layer(context, "file").image
    assert isinstance(image.memory, LayerMemory)
    assert image.memory.read(0, 1 << 20) == data


def test_a_format_nobody_knows_is_not_read_as_raw(tmp_path: Path) -> None:
    path = tmp_path / "image.flat"
    path.write_bytes(b"makedumpfile\0\0\0\0" + bytes(1 << 20))
    context, _ = file_layer(path)
    with pytest.raises(UnsupportedFormatError, match="flattened"):
        subject_of_layer(context, "file")


def test_a_layer_without_a_file(tmp_path: Path) -> None:
    context = contexts.Context()
    data = random_bytes(3 * PAGE + 1)
    layer: interfaces.layers.DataLayerInterface = physical.BufferDataLayer(context, "buffer", "buffer", data)
    context.add_layer(layer)
    image = subject_of_layer(context, "buffer").image
    assert image.format == "volatility3 BufferDataLayer"
    assert image.memory.read(0, len(data)) == data
