"""Damaged files: whatever is cut off or overwritten, a file opens with its problems listed or is refused in
one sentence."""

from __future__ import annotations

import contextlib
import random
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.errors import ImageUnreadableError, MemoryReadError, UnsupportedFormatError
from vmaforensics.image.open import open_image

from .build import CODECS, NOTES, PAGE, ZERO, Kdump, Load, avml, elf, flat_stream, flatten, lime, page, split

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.image import Image

PAGES: dict[int, bytes | None] = {
    1: page(1),
    2: None,
    3: ZERO,
    4: page(4),
    5: page(5),
    40: ZERO,
    70: page(70),
}
LOADS = [
    Load(pa=0x1000, data=page(1), memsz=3 * PAGE),
    Load(pa=0x8000, data=page(8) + page(9)),
    Load(pa=0x8800, data=page(3)),
]
TOP = 80

SOURCES: dict[str, bytes] = {
    "elf": elf(LOADS, NOTES),
    "qemu": elf(LOADS, NOTES, phoff=192, ehsize=8),
    "extended": elf(LOADS, NOTES, phoff=128, extended=True),
    "lime": lime([(0x1000, page(1)), (0x4000, page(4) + page(5)), (0x9000, page(9))]),
    "one bitmap": Kdump(pages={1: page(1), 2: page(2)}, one_bitmap=True).build(),
    "diskdump": Kdump(pages=PAGES, version=1, signature=b"DISKDUMP").build(),
    "split": Kdump(pages=PAGES, split=(3, 60)).build(),
    **{f"v{version}": Kdump(pages=PAGES, version=version).build() for version in range(7)},
    **{codec: Kdump(pages=PAGES, codec=codec, eraseinfo=b"erase a.b size 8\n").build() for codec in CODECS},
    "lemon": lime([(0x1000, page(1) + b"LEMON FAIL READ " * 256 + page(4)), (0x9800, b"LEMON FAIL READ " * 300)]),
    "avml": avml([(0x1000, page(1) * 20), (0x1F800, page(4) + page(5)), (0x30000, page(9))]),
    "flattened elf": flatten(elf(LOADS, NOTES), 700),
    "flattened kdump": flatten(Kdump(pages=PAGES).build(), 3000),
    "flattened part": flatten(Kdump(pages=PAGES, split=(3, 60)).build(), 3000),
    "overlapping": flat_stream(
        [(at, elf(LOADS, NOTES)[at : at + 900]) for at in (*range(0, len(elf(LOADS, NOTES)), 800), 50, 3000, 3100)]
    ),
}
PARTS = split(Kdump(pages=PAGES, codec="zlib").build(), [4, 41])


def exercise(path: Path | list[Path]) -> Image | None:
    """Open a file and read it in every way. Only errors of our own may come out, in one sentence each."""
    try:
        image = open_image(path)
    except (UnsupportedFormatError, ImageUnreadableError) as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
        return None
    memory = image.memory
    assert memory.ranges.dtype == np.uint64
    assert (memory.ranges[:, 0] < memory.ranges[:, 1]).all()
    assert (memory.ranges[1:, 0] > memory.ranges[:-1, 1]).all()
    memory.start_trace()
    frames = np.concatenate([np.arange(TOP, dtype=np.uint64), memory.ranges.ravel()[:64] >> np.uint64(12)])
    before = memory.page_states(frames)
    data, ok = memory.gather(frames << np.uint64(12), PAGE)
    states = memory.page_states(frames)
    # Of a page that is RAM only in part, "present" speaks of that part.
    pas = frames[:, None] << np.uint64(12)
    whole = ((memory.ranges[:, 0] <= pas) & (memory.ranges[:, 1] >= pas + np.uint64(PAGE))).any(axis=1)
    np.testing.assert_array_equal(ok, (states <= 1) & whole)
    assert (states[before >= 2] == before[before >= 2]).all()
    assert not data[~ok].any()
    odd = frames * np.uint64(PAGE) + np.uint64(PAGE - 3)
    data, ok = memory.gather(odd, 8)
    assert not data[~ok].any()
    held = 0
    for pa, piece in memory.chunks(1 << 16):
        assert memory.read(pa, 1) == piece[:1].tobytes()
        held += len(piece)
        if held > 1 << 20:
            break
    with contextlib.suppress(MemoryReadError):
        memory.read(0x1800, 0x2000)
    memory.traced()
    for sentence in (*image.problems, *memory.problems()):
        assert "\n" not in sentence
    for text in (*image.details, *image.details.values()):
        assert text.isprintable()
    return image


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_cut_off_anywhere_opens_with_problems_or_is_refused(tmp_path: Path, name: str) -> None:
    whole = SOURCES[name]
    rng = random.Random(name)
    cuts = {0, 1, 7, 15, 16, 63, 64, 191, 192, 463, 464, PAGE, PAGE + 104, *range(64, 400, 24)}
    cuts |= {rng.randrange(len(whole)) for _ in range(12)} | {len(whole) - 1}
    cuts |= {at + more for at in range(0, len(whole), PAGE) for more in (-1, 0, 1)}
    for number, cut in enumerate(sorted(cut for cut in cuts if 0 <= cut < len(whole))):
        path = tmp_path / str(number)
        path.write_bytes(whole[:cut])
        image = exercise(path)
        assert image is None or image.problems, f"cut at {cut}"
        path.unlink()


# Numbers that headers are most easily hurt by.
EVIL = [
    0,
    1,
    7,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 20,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**52,
    2**63,
    2**64 - 1,
]


@pytest.mark.parametrize("name", SOURCES)
def test_any_bytes_in_the_headers_are_survived(tmp_path: Path, name: str) -> None:
    """Seeded, so that what fails once fails again; the seed is the name of the source."""
    whole = SOURCES[name]
    rng = random.Random(name)
    interesting = [*range(0, 320, 4), *range(400, 464, 4), *range(PAGE, PAGE + 120, 4)]
    interesting += [at for at in range(len(whole) - 16) if whole[at : at + 4] in (b"AVML", b"sNaP", b"EMiL")]
    interesting += [len(whole) // 2 // 4 * 4 + at for at in range(-400, 400, 4)]
    for number in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.choice(interesting) if rng.random() < 0.8 else rng.randrange(len(whole))
            if rng.random() < 0.5:
                value = struct.pack("<Q", rng.choice(EVIL))[: rng.choice((1, 2, 4, 8))]
            else:
                value = rng.randbytes(rng.choice((1, 2, 4, 8)))
            value = value[: max(0, len(data) - at)]
            data[at : at + len(value)] = value
        path = tmp_path / str(number)
        path.write_bytes(data)
        exercise(path)
        path.unlink()


@pytest.mark.parametrize("mutated", range(3))
def test_any_bytes_in_one_part_of_a_split_dump_are_survived(tmp_path: Path, mutated: int) -> None:
    rng = random.Random(mutated)
    paths = [tmp_path / f"part{number}" for number in range(3)]
    for number in range(40):
        for path, part in zip(paths, PARTS, strict=True):
            path.unlink(missing_ok=True)
            path.write_bytes(part)
        data = bytearray(PARTS[mutated])
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.choice((*range(PAGE + 8, PAGE + 104, 4), rng.randrange(len(data))))
            value = struct.pack("<Q", rng.choice(EVIL))[: rng.choice((1, 4, 8))][: len(data) - at]
            data[at : at + len(value)] = value
        if number % 5 == 0:
            del data[rng.randrange(len(data)) :]
        paths[mutated].unlink()
        paths[mutated].write_bytes(data)
        exercise(paths)


@pytest.mark.parametrize("codec", [name for name in CODECS if name != "raw"])
def test_damaged_page_data_never_gives_wrong_sizes_or_other_errors(tmp_path: Path, codec: str) -> None:
    kdump = Kdump(pages={n: page(n) for n in range(TOP)}, codec=codec)
    whole = kdump.build()
    rng = random.Random(codec)
    for number in range(15):
        data = bytearray(whole)
        for _ in range(60):
            data[rng.randrange(kdump.edges[-2], len(data))] = rng.choice((0, 0xFF, rng.randrange(256)))
        path = tmp_path / str(number)
        path.write_bytes(data)
        exercise(path)
        path.unlink()
