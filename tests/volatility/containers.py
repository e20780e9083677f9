"""One memory in every container format, written with ``struct`` and the codecs alone."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import cramjam
import numpy as np
from image import build

from vmaforensics.image.placed import PAGE_SIZE, PageState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vmaforensics.image.image import Image

_FLAT_RECORD = 1 << 16  # bytes makedumpfile writes at once


class Pages:
    """The page frames an image holds, and their bytes."""

    def __init__(self, image: Image) -> None:
        ranges = image.memory.ranges >> np.uint64(12)
        frames = np.concatenate([np.arange(low, high, dtype=np.uint64) for low, high in ranges.tolist()])
        self.frames = frames[image.memory.page_states(frames) <= PageState.ZERO]
        self.bytes, ok = image.memory.gather(self.frames << np.uint64(12), PAGE_SIZE)
        assert ok.all()
        self.top = int(frames[-1]) + 1
        self.vmcoreinfo = image.vmcoreinfo or b""

    def put(self, frame: int, data: bytes) -> None:
        """Hold ``data`` in a page frame that is not held so far."""
        at = int(np.searchsorted(self.frames, np.uint64(frame)))
        self.frames = np.insert(self.frames, at, np.uint64(frame))
        self.bytes = np.insert(self.bytes, at, np.frombuffer(data, np.uint8), axis=0)

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """(physical address, bytes) of runs of neighbouring frames."""
        first = np.flatnonzero(np.concatenate([[True], self.frames[1:] != self.frames[:-1] + np.uint64(1)]))
        for low, high in zip(first.tolist(), [*first[1:].tolist(), len(self.frames)], strict=True):
            yield int(self.frames[low]) << 12, self.bytes[low:high].tobytes()

    @property
    def notes(self) -> bytes:
        """The notes of an ELF core or a kdump file."""
        return build.note(b"VMCOREINFO", 0, self.vmcoreinfo) if self.vmcoreinfo else b""

    def kdump(self, codec: str, split: tuple[int, int] | None = None) -> bytes:
        """A kdump file; pages that do not compress are stored as they are."""
        compress = build.CODECS[codec][1]
        pages = {int(frame): data.tobytes() for frame, data in zip(self.frames, self.bytes, strict=True)}
        fits = {frame: codec for frame, data in pages.items() if any(data) and len(compress(data)) < PAGE_SIZE}
        return build.Kdump(
            pages=pages, codec=fits, notes=self.notes, vmcoreinfo=self.vmcoreinfo, max_mapnr=self.top, split=split
        ).build()


def _raw(pages: Pages, path: Path) -> None:
    with path.open("wb") as stream:
        for address, data in pages.runs():
            stream.seek(address)
            stream.write(data)
        stream.truncate(pages.top << 12)


def _elf(pages: Pages, path: Path) -> None:
    path.write_bytes(build.elf([build.Load(pa=address, data=data) for address, data in pages.runs()], pages.notes))


def _elf_with_holes(pages: Pages, path: Path) -> None:
    """As makedumpfile -E: a segment has what is held at its start, and the filtered pages behind it."""
    runs = list(pages.runs())
    ends = [address for address, _ in runs[1:]] + [pages.top << 12]
    loads = [build.Load(pa=at, data=data, memsz=end - at) for (at, data), end in zip(runs, ends, strict=True)]
    path.write_bytes(build.elf(loads, pages.notes, phoff=128, extended=True))


def _lime(pages: Pages, path: Path) -> None:
    path.write_bytes(build.lime(pages.runs()))


def _avml(pages: Pages, path: Path) -> None:
    out = b""
    for address, data in pages.runs():
        packed = bytes(cramjam.snappy.compress(data))
        header = build.lime_header(address, address + len(data) - 1, magic=0x4C4D5641, version=2)
        out += header + packed + struct.pack("<Q", len(packed))
    path.write_bytes(out)


def _flattened(pages: Pages, path: Path) -> None:
    inner = pages.kdump("zlib")
    records = [(at, inner[at : at + _FLAT_RECORD]) for at in range(0, len(inner), _FLAT_RECORD)]
    records = records[1::2] + records[::2]  # makedumpfile goes back, too
    with path.open("wb") as stream:
        stream.write((b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)).ljust(4096, b"\0"))
        for at, data in records:
            stream.write(struct.pack(">qq", at, len(data)) + data)
        stream.write(struct.pack(">qq", -1, -1))


def _split(pages: Pages, path: Path) -> None:
    middle = int(pages.frames[len(pages.frames) // 2])
    path.write_bytes(pages.kdump("lzo", (0, middle)))
    path.with_suffix(".2").write_bytes(pages.kdump("lzo", (middle, pages.top)))


def _kdump(codec: str) -> Callable[[Pages, Path], None]:
    def write(pages: Pages, path: Path) -> None:
        path.write_bytes(pages.kdump(codec))

    return write


WRITERS: dict[str, Callable[[Pages, Path], None]] = {
    "raw": _raw,
    "elf": _elf,
    "elf with holes": _elf_with_holes,
    "lime": _lime,
    "kdump zlib": _kdump("zlib"),
    "kdump zstd": _kdump("zstd"),
    "kdump lzo": _kdump("lzo"),
    "kdump snappy": _kdump("snappy"),
    "kdump split": _split,
    "flattened": _flattened,
    "avml": _avml,
}
