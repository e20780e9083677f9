"""Labelled edits: words of a kernel changed in a copy of an image, by kernel address; the image itself stays as it is.

For proofs: samples that were tampered with, and tests that change one word and look what is found.

>>> edit = Edit(image, kernel)
>>> edit.put(edit.at("mm_struct", mm, "map_count"), 27, 4)
>>> analyse_image(edit.image())
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import MemoryReadError
from vmaforensics.image.overlay import Overlay

if TYPE_CHECKING:
    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel


class Edit:
    """A copy of ``image`` to write to and to take pages from."""

    def __init__(self, image: Image, kernel: Kernel) -> None:
        self.kernel = kernel
        self.overlay = Overlay(image.memory)
        self._image = image

    def physical(self, address: int) -> int:
        """Where a kernel address lies. Raises :class:`MemoryReadError` if nothing maps it."""
        pas, _, mapped = self.kernel.space.translate(np.array([address], np.uint64))
        if not mapped[0]:
            raise MemoryReadError(address, 1, "kernel", "no page table maps it")
        return int(pas[0])

    def put(self, address: int, value: int, size: int = 8) -> None:
        """Write an integer of ``size`` bytes; what does not fit wraps."""
        self.write(address, (value % (1 << 8 * size)).to_bytes(size, "little"))

    def write(self, address: int, data: bytes) -> None:
        """Write bytes that do not cross a page."""
        self.overlay.write(self.physical(address), data)

    def get(self, address: int) -> int:
        """The 64-bit word at an address, edits included."""
        return int.from_bytes(self.overlay.read(self.physical(address), 8), "little")

    def at(self, struct: str, address: int, member: str) -> int:
        """Address of a member of the structure at ``address``."""
        return address + self.kernel.offset(struct, member)

    def drop(self, address: int, size: int = 1) -> None:
        """Take the pages of ``[address, address + size)`` out of the dump."""
        shift = self.overlay.page_shift
        for page in range(address >> shift, (address + size - 1 >> shift) + 1):
            self.overlay.drop(self.physical(page << shift) >> shift)

    def image(self) -> Image:
        """The image with the edits made so far."""
        return replace(self._image, memory=self.overlay)
