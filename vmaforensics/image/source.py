"""The bytes under an image: a mapped file, or what a container makes of one; never a copy of the evidence.

Readers of formats see a :class:`FileSource`: it reads like a ``bytes`` object, and says for many items at once
where they lie in a flat buffer.
"""

from __future__ import annotations

import errno
import mmap
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from vmaforensics.errors import ImageUnreadableError
from vmaforensics.image.file import require_file, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray


_HOLE = 1 << 20  # bytes; smaller ones are read
_MOST_EXTENTS = 1 << 17
_NOT_TO_BE_MAPPED = (errno.ENOMEM, errno.ENODEV, errno.EOVERFLOW, errno.EINVAL, errno.EIO)  # mmap(2)


class Bytes(Protocol):
    """What a header is read from: a memoryview or a :class:`FileSource`."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice[Any, Any, Any], /) -> ReadableBuffer: ...


class Fetched(NamedTuple):
    """Where items of one size lie."""

    buffer: NDArray[np.uint8]  # one-dimensional
    places: NDArray[np.int64]  # offset in the buffer of each item; a valid one also where it cannot be read
    ok: NDArray[np.bool_]  # the item can be read


class Span(NamedTuple):
    """Stretches of several sizes that lie in one buffer."""

    rows: NDArray[np.intp]  # of the stretches asked for, those that are here
    buffer: memoryview
    places: NDArray[np.int64]  # offset in the buffer at which each begins


class Source(ABC):
    """``len()`` bytes that hold memory: those of a file, or what unpacking one gives."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, offsets: NDArray[np.int64], size: int) -> Fetched:
        """Where the ``size`` bytes at each of ``offsets``, all of them inside, lie. Good until the next call."""

    @abstractmethod
    def pieces(self, at: int, size: int, step: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The bytes ``[at, at + size)``, all of them inside, as ``(offset, uint8 array)`` of at most ``step``
        bytes each, ascending. Zeros that the container only implies, and what cannot be read, are left out."""

    @property
    def lossy(self) -> bool:
        """Whether it is known by now that some of it cannot be read."""
        return False

    def lost(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether it is known by now that of the ``sizes`` bytes at each of ``offsets`` some cannot be read."""
        return np.zeros(len(offsets), dtype=np.bool_)

    def problems(self) -> tuple[str, ...]:
        """What the reads made so far have met; see ``PhysicalMemory.problems``."""
        return ()


class FileSource(Source):
    """A dump file as its format sees it. ``file[a:b]`` gives bytes, cut to the length as ``bytes`` would."""

    @abstractmethod
    def __getitem__(self, part: slice[Any, Any, Any], /) -> memoryview: ...

    def array(self, dtype: np.dtype[Any], at: int, count: int) -> NDArray[Any]:
        """``count`` items at offset ``at``, all of them inside; a view if they lie in one piece."""
        return np.frombuffer(self[at : at + count * dtype.itemsize], dtype=dtype, count=count)

    def records(self, dtype: np.dtype[Any], at: int, index: NDArray[np.int64]) -> NDArray[Any]:
        """The items ``index`` of the table that begins at offset ``at``; zeros for what cannot be read."""
        buffer, places, _ = self.fetch(at + index * dtype.itemsize, dtype.itemsize)
        return take(buffer, places, dtype.itemsize).reshape(-1).view(dtype)

    @abstractmethod
    def spans(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[Span]:
        """The ``sizes`` bytes at each of ``offsets``, all of them inside, in groups that lie in one buffer. Rows that
        cannot be read are in no group."""


class Mapped(FileSource):
    """A buffer as it is: a mapped file. For its holes to be passed over, ``path`` is that of the file, or ``data`` says
    what of it is none, as :func:`data_in` does."""

    def __init__(
        self, buffer: NDArray[np.uint8], path: Path | None = None, data: list[tuple[int, int]] | None = None
    ) -> None:
        self.buffer = buffer
        self.path = path
        self._data = data  # what is no large hole, once that has been asked for

    def part(self, at: int, size: int) -> Mapped:
        """The ``size`` bytes from ``at`` on, fewer at the end, as a source of their own."""
        inside = None
        if self._data is not None:
            inside = [
                (max(start - at, 0), min(end - at, size)) for start, end in self._data if start < at + size and end > at
            ]
        return Mapped(self.buffer[at : at + size], data=inside)

    def release(self) -> None:
        """Take the pages of a mapped file out of this process; what is asked for again is read again."""
        owner = self.buffer.base.obj if isinstance(self.buffer.base, memoryview) else None
        if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            owner.madvise(mmap.MADV_DONTNEED)

    def __len__(self) -> int:
        return len(self.buffer)

    def __getitem__(self, part: slice[Any, Any, Any], /) -> memoryview:
        return self.buffer.data[part]

    def fetch(self, offsets: NDArray[np.int64], size: int) -> Fetched:
        return Fetched(self.buffer, offsets, np.ones(len(offsets), dtype=np.bool_))

    def pieces(self, at: int, size: int, step: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        if self._data is None:
            self._data = [(0, len(self))] if self.path is None else data_in(self.path, len(self))
        for start, end in self._data:
            start, end = max(start, at), min(end, at + size)
            for low in range(start, end, step):
                yield low, self.buffer[low : min(low + step, end)]

    def records(self, dtype: np.dtype[Any], at: int, index: NDArray[np.int64]) -> NDArray[Any]:
        return np.frombuffer(self.buffer.data, dtype=dtype, offset=at, count=(len(self) - at) // dtype.itemsize)[index]

    def spans(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[Span]:
        yield Span(np.arange(len(offsets)), self.buffer.data, offsets)


def take(buffer: NDArray[np.uint8], offsets: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """The ``size`` bytes at each of ``offsets`` of a buffer of at least that length, as ``(n, size)`` uint8."""
    # One void item at every byte offset: fancy indexing then is one memcpy per row.
    item = np.dtype((np.void, size))
    window = np.ndarray((len(buffer) - size + 1,), dtype=item, buffer=buffer, strides=(1,))
    return window[offsets].view(np.uint8).reshape(-1, size)


class NotMappableError(ImageUnreadableError):
    """A file that can be read, but not mapped: /proc/kcore, or a copy that is larger than any address space."""


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a regular file as a read-only one-dimensional uint8 array, mapped, not read.

    The mapping lives as long as an array that views it. Raises :class:`NotMappableError` if it can only be read, and
    :class:`ImageUnreadableError` if ``path`` is missing, not a regular file, empty, or may not be read.
    """
    require_file(path)
    try:
        with path.open("rb") as stream:
            mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OverflowError as error:
        raise NotMappableError(f"{path} is too large to be mapped") from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _NOT_TO_BE_MAPPED:
            raise NotMappableError(f"{path} cannot be mapped: {error.strerror}") from error
        raise unreadable(path, error) from error
    return np.frombuffer(mapping, dtype=np.uint8)


def data_in(path: Path, size: int) -> list[tuple[int, int]]:
    """``[start, end)`` of what the file system holds of a file of ``size`` bytes, ascending, without large holes.

    Reading a hole gives zeros, a page fault each. Where holes cannot be told, all of the file is data.
    """
    found: list[tuple[int, int]] = []
    end = 0
    try:
        with path.open("rb") as stream:
            for _ in range(_MOST_EXTENTS):
                start = os.lseek(stream.fileno(), end, os.SEEK_DATA)
                end = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
                if found and start - found[-1][1] < _HOLE:
                    start = found.pop()[0]
                found.append((start, end))
    except OSError as error:
        return found if error.errno == errno.ENXIO else [(0, size)]  # ENXIO: nothing but a hole is left
    except AttributeError:  # a system without SEEK_DATA
        return [(0, size)]
    return [*found, (end, size)]


def ascii_text(data: bytes, limit: int = 256) -> str:
    """A header string for people: up to the first NUL, at most ``limit`` bytes, anything that is not
    printable ASCII as ``\\xNN``."""
    text = data.split(b"\0", 1)[0][:limit]
    return "".join(chr(c) if 0x20 <= c < 0x7F else f"\\x{c:02x}" for c in text)
