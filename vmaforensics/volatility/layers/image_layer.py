# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""A layer of volatility3 over the engine's readers: physical memory of formats volatility3 has no layer for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements

from vmaforensics.columns.runs import true_ranges
from vmaforensics.errors import MemoryReadError
from vmaforensics.image.placed import PAGE_SHIFT, PAGE_SIZE, PageState
from vmaforensics.volatility.layers.location import local_path
from vmaforensics.volatility.layers.opened import opened
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.image.image import Image
    from vmaforensics.image.memory import PhysicalMemory

log = logging.getLogger(__name__)

_CACHED = 1 << 14  # pages kept as bytes: volatility3 reads a structure word by word
_AT_ONCE = 1 << 12  # pages of one large read, or looked at for one step of a scan
_INTO = PAGE_SIZE - 1


class ImageLayer(interfaces.layers.DataLayerInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Physical memory as ``open_image`` reads it. Pages that are not in the dump are invalid, never zeros.

    Its whole configuration is ``location``, the URL of the file, so it can be rebuilt from that; cloning it
    copies neither the file nor the pages read. Other parts of a split dump are found beside the file.
    """

    def __init__(self, context: Any, config_path: str, name: str, metadata: dict[str, Any] | None = None) -> None:  # noqa: ANN401
        super().__init__(context=context, config_path=config_path, name=name, metadata=metadata)
        self._image: Image | None = None
        self._pages: dict[int, bytes | None] = {}  # page frame: its bytes, None if it is not whole
        _ = self.memory  # a file that cannot be opened is the constructor's error

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [requirements.StringRequirement(name="location", description="URL of the image file", optional=False)]

    @property
    def image(self) -> Image:
        """The opened image."""
        if self._image is None:
            path = local_path(self.config["location"])
            if path is None:
                raise exceptions.LayerException(self.name, f"{self.config['location']} is not a local file")
            self._image = opened(path).laid_out
        return self._image

    @property
    def memory(self) -> PhysicalMemory:
        """Its memory."""
        return self.image.memory

    def __getstate__(self) -> dict[str, Any]:
        # Clones, and the processes of a parallel scan, open the image for themselves.
        return self.__dict__ | {"_image": None, "_pages": {}}

    # What volatility3 asks of a layer -----------------------------------------------------------------

    @property
    def minimum_address(self) -> int:
        return 0

    @property
    def maximum_address(self) -> int:
        ranges = self.memory.ranges
        return max(int(ranges[-1, 1]) - 1 if len(ranges) else 0, PAGE_SIZE - 1)

    def is_valid(self, offset: int, length: int = 1) -> bool:
        end = offset + max(length, 1)
        if offset < 0 or end > self.maximum_address + 1:
            return False
        first, last = offset >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT
        if first == last:
            return self._page(first) is not None or self._piece(offset, end - offset) is not None
        for low in range(first + 1, last, _AT_ONCE):
            frames = np.arange(low, min(low + _AT_ONCE, last), dtype=np.uint64)
            if (self.memory.page_states(frames) > PageState.ZERO).any():
                return False
        edge = last << PAGE_SHIFT
        return self.is_valid(offset, ((first + 1) << PAGE_SHIFT) - offset) and self.is_valid(edge, end - edge)

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:
        into = offset & _INTO
        if into + length <= PAGE_SIZE:
            page = self._pages.get(offset >> PAGE_SHIFT)
            if page is not None:
                return page[into : into + length]
        return b"".join(self._read(offset, length, pad))

    def write(self, offset: int, data: bytes) -> None:
        log.warning("layer %s: an image is not written to", self.name)

    def _scan_iterator(self, scanner: Any, sections: Iterable[tuple[int, int]]) -> Iterable[Any]:  # noqa: ANN401
        # volatility3 drops a whole block (16 MiB) for one page that is missing of it.
        return super()._scan_iterator(scanner, self._held(sections))  # type: ignore[no-any-return]

    # Reading --------------------------------------------------------------------------------------------

    def _read(self, offset: int, length: int, pad: bool) -> Iterator[bytes]:
        """The bytes ``[offset, offset + length)`` in pieces, whole pages together; zeros for absent ones if ``pad``.

        Raises ``InvalidAddressException`` at the first absent byte otherwise.
        """
        if offset < 0:
            raise exceptions.InvalidAddressException(self.name, offset, "no physical address is negative")
        end = offset + length
        while offset < end:
            whole = (end - offset) >> PAGE_SHIFT if not offset & _INTO else 0
            if whole > 64:
                count = min(whole, _AT_ONCE)
                pas = np.arange(count, dtype=np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(offset)
                data, ok = self.memory.gather(pas, PAGE_SIZE)
                if ok.all():
                    yield data.tobytes()
                    offset += count << PAGE_SHIFT
                    continue
            step = min(PAGE_SIZE - (offset & _INTO), end - offset)
            page = self._page(offset >> PAGE_SHIFT)
            into = offset & _INTO
            piece = self._piece(offset, step) if page is None else page[into : into + step]
            if piece is None and not pad:
                raise exceptions.InvalidAddressException(self.name, offset, self._why(offset, step))
            yield bytes(step) if piece is None else piece
            offset += step

    def _page(self, frame: int) -> bytes | None:
        """The bytes of a page frame, or None if the image does not hold all of it."""
        if frame in self._pages:
            return self._pages[frame]
        if len(self._pages) >= _CACHED:
            self._pages.clear()
        page = self._pages[frame] = self._piece(frame << PAGE_SHIFT, PAGE_SIZE)
        return page

    def _piece(self, offset: int, length: int) -> bytes | None:
        """Bytes within one page, or None."""
        if offset >= 1 << 64:
            return None
        data, ok = self.memory.gather(np.array([offset], np.uint64), length)
        return data.tobytes() if ok[0] else None

    def _why(self, offset: int, length: int) -> str:
        try:
            self.memory.read(offset, length)
        except MemoryReadError as error:
            return printable(str(error))
        return "the page cannot be read"

    def _held(self, sections: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """(start, length) of what the image holds of ``sections``, in runs as long as they come."""
        ranges = self.memory.ranges.tolist()
        for begin, size in sections:
            start = stop = 0
            for low, high in ranges:
                low, high = max(low, begin), min(high, begin + size + 1)
                for at in range(low >> PAGE_SHIFT, -(-high >> PAGE_SHIFT), _AT_ONCE):
                    frames = np.arange(at, min(at + _AT_ONCE, -(-high >> PAGE_SHIFT)), dtype=np.uint64)
                    held = true_ranges(self.memory.page_states(frames) <= PageState.ZERO) + at
                    for first, last in (held << PAGE_SHIFT).tolist():
                        first, last = max(first, low), min(last, high)
                        if first != stop:
                            if start < stop:
                                yield start, stop - start
                            start = first
                        stop = last
            if start < stop:
                yield start, stop - start
