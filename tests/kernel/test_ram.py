"""How a file without headers lies, by what the kernel says of its RAM (kernel/resource.c, max_pfn)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.export.excerpt_file import held_frames
from vmaforensics.image.formats.raw import Stretch
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.ram import KernelRam, layout, overlaps, system_ram
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.tasks import walk_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from support import Sample

GIB = 1 << 30
MIB = 1 << 20
HOLE_END = 4 * GIB

# /proc/iomem of a guest of 5 GiB whose firmware ends low memory at 2 GiB, and of one of 512 MiB
LARGE = KernelRam(9 * GIB - 4 * GIB + 2 * GIB, [(0x1000, 0x9FC00), (0x100000, 0x7FFD7000), (4 * GIB, 7 * GIB)], 12)
SMALL = KernelRam(0x1FFD7000, [(0x1000, 0x9FC00), (0x100000, 0x1FFD7000)], 12)


def test_a_whole_file_lies_as_it_is() -> None:
    assert layout(SMALL, 512 * MIB, HOLE_END, 0) == ([Stretch(0, 0, 512 * MIB)], "")
    assert layout(LARGE, 7 * GIB, HOLE_END, 0) == ([Stretch(0, 0, 7 * GIB)], "")


@pytest.mark.parametrize("shift", [0, 2 * GIB])
def test_the_hole_below_4_gib_may_be_left_out(shift: int) -> None:
    """The kernel may lie below it, or above it and so be shifted."""
    stretches, text = layout(LARGE, 5 * GIB, HOLE_END, shift)
    assert stretches == [Stretch(0, 0, 2 * GIB), Stretch(4 * GIB, 2 * GIB, 3 * GIB)]
    assert "leaves out what lies between 0x80000000 and 0x100000000" in text


def test_a_kernel_above_the_hole_proves_it_without_the_tree_of_resources() -> None:
    stretches, _ = layout(KernelRam(LARGE.top, [], 12), 5 * GIB, HOLE_END, 2 * GIB)
    assert stretches == [Stretch(0, 0, 2 * GIB), Stretch(4 * GIB, 2 * GIB, 3 * GIB)]


def test_ram_of_the_image_that_the_kernel_does_not_use_is_none_of_its_own() -> None:
    """As with mem=400M and memmap=64M$128M of 512 MiB, and RAM that the image does not have."""
    held, own = [(0, 512 * MIB), (4 * GIB, 5 * GIB)], [(0x1000, 128 * MIB), (192 * MIB, 400 * MIB), (4 * GIB, 6 * GIB)]
    assert overlaps(held, own) == [(0x1000, 128 * MIB), (192 * MIB, 400 * MIB), (4 * GIB, 5 * GIB)]
    assert overlaps(held, []) == []


@pytest.mark.parametrize("known", [LARGE, SMALL])
def test_ranges_one_behind_the_other(known: KernelRam) -> None:
    """LiME's format=raw: the sizes add up to that of the file."""
    size = sum(end - start for start, end in known.ranges)
    stretches, text = layout(known, size, HOLE_END, 0x100000 - 0x9EC00)
    assert [(pa, length) for pa, _, length in stretches] == [(start, end - start) for start, end in known.ranges]
    assert [offset for _, offset, _ in stretches][:2] == [0, 0x9EC00]
    assert "format=raw" in text


def test_a_file_that_is_cut_short_says_how_much_is_missing() -> None:
    stretches, text = layout(SMALL, 384 * MIB, HOLE_END, 0)
    assert stretches == [Stretch(0, 0, 384 * MIB), Stretch(384 * MIB, 384 * MIB, 0x1FFD7000 - 384 * MIB)]
    whole = (0x9FC00 - 0x1000 + 0x1FFD7000 - 0x100000) >> 12
    lost = (0x1FFD7000 - 384 * MIB) >> 12
    assert f"{whole - lost:,} of {whole:,} pages of RAM are in it" in text


def test_without_the_tree_a_file_is_cut_short_if_ram_ends_behind_it() -> None:
    stretches, text = layout(KernelRam(0x1FFD7000, [], 12), 384 * MIB, HOLE_END, 0)
    assert stretches[1] == Stretch(384 * MIB, 384 * MIB, 0x1FFD7000 - 384 * MIB)
    assert "RAM up to 0x1ffd7000" in text


def test_a_shift_that_nothing_explains_is_said() -> None:
    stretches, text = layout(KernelRam(SMALL.top, [], 12), 384 * MIB, HOLE_END, -0x100000)
    assert stretches == [Stretch(0, 0x100000, 383 * MIB)]
    assert "0x100000 bytes below its place in the file" in text


def test_an_excerpt_written_with_its_ranges_one_behind_the_other_is_laid_out(
    list_sample: Sample, tmp_path: Path
) -> None:
    """As LiME's format=raw would have written it; a sparse file."""
    kernel = find_kernel(open_image(list_sample.image_path))
    memory = kernel.memory
    ranges = system_ram(kernel.space, kernel.symbols, kernel.types)
    assert len(ranges) > 1
    held = held_frames(memory)
    with (tmp_path / "image.raw").open("wb") as stream:
        base = 0
        for start, end in ranges:
            for pfn in held[(held >= start >> 12) & (held < end >> 12)].tolist():
                stream.seek(base + (pfn << 12) - start)
                stream.write(memory.read(pfn << 12, 4096))
            base += end - start
        stream.truncate(base)
    other = find_kernel(open_image(tmp_path / "image.raw"))
    assert any("one behind the other" in problem for problem in other.identity.problems)
    tasks, again = walk_tasks(kernel, ProblemLog()), walk_tasks(other, ProblemLog())
    assert len(tasks) > 100
    for name in ("task", "pid", "comm", "mm"):
        np.testing.assert_array_equal(getattr(tasks, name), getattr(again, name))
