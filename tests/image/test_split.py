"""Split kdump files: all parts together are the dump, whatever their order; parts of different dumps are none."""

from __future__ import annotations

import shutil
import subprocess
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.open import open_image

from .build import PAGE, VMCOREINFO, ZERO, Kdump, flatten, page, split
from .truth import bytes_of, check, states

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Opener

PAGES: dict[int, bytes | None] = {n: page(n) for n in (1, 4, 5, 40, 41, 70, 130)}
PAGES |= {2: None, 3: ZERO, 60: ZERO, 90: ZERO}
FILTERED = {2 * PAGE + at for at in range(PAGE)}
WHOLE = Kdump(pages=PAGES, codec={1: "zlib", 4: "zstd", 40: "lzo", 70: "snappy"}, time=1700000000).build()


def test_all_parts_in_any_order_are_the_dump(opened: Opener) -> None:
    parts = split(WHOLE, [4, 41])
    for order in permutations(parts):
        image = opened(*order)
        check(image.memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
        assert states(image.memory, 6) == "-pazpp"
        assert image.problems == ()
        assert image.details["split"] == "3 parts, page frames 0x0 to 0x4, 0x4 to 0x29, 0x29 to 0x83"
        assert image.size == sum(map(len, parts))
        assert [path.read_bytes() for path in image.paths] == parts
        assert image.vmcoreinfo == VMCOREINFO.rstrip(b"\0")


def test_parts_may_be_flattened(opened: Opener) -> None:
    parts = [flatten(part, 500) for part in split(WHOLE, [4, 41])]
    image = opened(*parts)
    check(image.memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
    assert image.size == sum(map(len, parts))


def test_one_part_says_what_it_has(opened: Opener) -> None:
    image = opened(split(WHOLE, [4, 41])[1])
    assert states(image.memory, 6) == "-aaapp"
    assert "one part of a split dump, with the page frames 0x4 to 0x29" in image.problems[0]
    assert "their 7 pages absent: give all parts together" in image.problems[0]


def test_the_pages_of_missing_parts_are_absent(opened: Opener) -> None:
    one, _, three = split(WHOLE, [4, 41])
    image = opened(three, one)
    held = {n: data for n, data in PAGES.items() if n < 4 or n >= 41}
    filtered = {n * PAGE + at for n in (2, 4, 5, 40) for at in range(PAGE)}
    check(image.memory, bytes_of(held), filtered, 131 * PAGE)
    assert "2 parts of a split dump, with the page frames 0x0 to 0x4, 0x29 to 0x83" in image.problems[0]
    assert "their 3 pages absent" in image.problems[0]


def test_parts_without_a_page_add_nothing(opened: Opener) -> None:
    """makedumpfile divides by gigabytes, and writes such parts for small machines."""
    parts = split(WHOLE, [131, 131])
    for order in permutations(parts):
        image = opened(*order)
        check(image.memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
        assert image.problems == ()
    image = opened(parts[2])
    assert states(image.memory, 6) == "-aaaaa"
    assert "the other parts are missing" in image.problems[0]


def test_a_part_cut_off_is_named(opened: Opener, tmp_path: Path) -> None:
    one, two, three = split(WHOLE, [4, 41])
    image = opened(one, two[:-5], three)
    assert f"the file {tmp_path / 'image1'} is truncated" in image.problems[0]
    assert image.memory.read(130 * PAGE, PAGE) == page(130)


def altered(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


OTHER = Kdump(pages=PAGES | {100: page(100)}, codec={1: "zlib", 4: "zstd", 40: "lzo", 70: "snappy"}, time=1700000000)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (lambda a, b, c: (a, a, b, c), "both say they have page frame 0x0"),
        (lambda a, b, c: (a, split(WHOLE, [3, 41])[1], c), "both say they have page frame 0x3"),
        (lambda a, b, c: (a, WHOLE), "is a whole kdump"),
        (lambda a, b, c: (a, altered(b, 408, b"\1"), c), "machine, kernel, time, sizes"),
        (lambda a, b, c: (a, altered(b, 12 + 65, b"other"), c), "machine, kernel, time, sizes"),
        (lambda a, b, c: (a, altered(b, b.index(b"OSRELEASE"), b"OSRELEASF"), c), "VMCOREINFO differs"),
        (lambda a, b, c: (a, split(OTHER.build(), [4, 41])[1], c), "the bitmaps differ"),
        (lambda a, b, c: (a, b"\0" * (1 << 20), c), "is not a kdump file"),
        (lambda a, b, c: (a, b[:300], c), "the header alone 464"),
    ],
)
def test_files_that_are_not_parts_of_one_dump_are_refused(opened: Opener, parts: object, why: str) -> None:
    assert callable(parts)
    with pytest.raises(UnsupportedFormatError, match=why) as caught:
        opened(*parts(*split(WHOLE, [4, 41])))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(shutil.which("makedumpfile") is None, reason="makedumpfile is not installed")
def test_makedumpfile_puts_the_same_dump_together(tmp_path: Path) -> None:
    paths = [tmp_path / f"part{number}" for number in range(3)]
    for path, data in zip(paths, split(WHOLE, [4, 41]), strict=True):
        path.write_bytes(data)
    out = tmp_path / "whole"
    subprocess.run(["makedumpfile", "--reassemble", *paths, out], check=True, capture_output=True)
    check(open_image(out).memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
    check(open_image(paths).memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
