"""Raw images: file offset is physical address (QEMU ``pmemsave``, LiME ``padded``, ``dd`` of /dev/mem).

Others leave out what is not RAM: LiME ``raw`` writes the ranges one behind the other, hypervisors keep the RAM of a
guest without the hole below 4 GiB (VMware's .vmem, memory back-ends of QEMU, Firecracker, Cloud Hypervisor). Nothing
in such a file says so; the kernel in it does (:mod:`vmaforensics.kernel.ram`), and then it is laid out anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmaforensics.image.formats.segments import FlatMemory, Segments, lay_out
from vmaforensics.image.image import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vmaforensics.image.source import FileSource


class Stretch(NamedTuple):
    """RAM that lies in one piece."""

    pa: int  # physical address
    offset: int  # in the file; at its end or beyond: not in the file
    size: int  # bytes


class RawMemory(FlatMemory):
    """A file without headers."""

    stretches: Sequence[Stretch] = ()  # as it is laid out, if not from physical address 0 on

    @property
    def file_size(self) -> int:
        """Bytes of the file."""
        return len(self._source)

    @property
    def shift(self) -> int:
        """Bytes by which the first stretch lies above its place in the file."""
        return self.stretches[0].pa - self.stretches[0].offset if self.stretches else 0

    @property
    def moved(self) -> bool:
        """Whether some of the file lies elsewhere than from physical address 0 on."""
        return any(one.pa != one.offset for one in self.stretches if one.offset < self.file_size)

    def problems(self) -> tuple[str, ...]:
        if not self.file_size % self.page_size or len(self.stretches) > 1:
            return super().problems()
        text = f"the size of a raw image, {self.file_size:#x} bytes, is not a multiple of {self.page_size}"
        return (*super().problems(), f"{text}; the file may be truncated")

    def move(self, shift: int) -> None:
        """Lay all of the file out ``shift`` bytes above its place; what would lie below 0 is left out."""
        self.place([moved(self.file_size, shift)])

    def place(self, stretches: Sequence[Stretch]) -> None:
        """Lay the file out anew. Of a stretch that ends behind the file, the rest is RAM that is not in it."""
        rows = [
            (pa, size, max(0, min(size, self.file_size - offset)), min(offset, self.file_size), 0)
            for pa, offset, size in stretches
        ]
        other, _ = lay_out(self._source, Segments.of_rows(rows))
        self.lie_as(other)
        self.stretches = tuple(stretches)


def moved(size: int, shift: int) -> Stretch:
    """The first ``size`` bytes of a file, ``shift`` bytes above their place; without what would lie below 0."""
    first = max(0, -shift)
    return Stretch(first + shift, first, size - first)


def open_raw(path: Path, source: FileSource) -> Image:
    """Every byte of the file is RAM; a last page that is not whole is held as far as it goes."""
    size = len(source)
    memory, problems = lay_out(source, Segments.of_rows([(0, size, size, 0, 0)]), kind=RawMemory)
    return Image(path=path, size=size, format="raw", memory=memory, problems=tuple(problems))
