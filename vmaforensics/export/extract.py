"""Writes the bytes of regions into a folder, and a manifest that says of every page what it is.

A page whose bytes are not available is written as zeros *and* listed: a zero in a file means nothing without
the manifest. Names of files are made of numbers, never of anything the image calls something.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics.errors import OutputError, UsageError
from vmaforensics.export.page_source import STATES, PageRecord, frame_pages, mapped_pages
from vmaforensics.export.whole_file import whole_file
from vmaforensics.version import __version__
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import IO

    from numpy.typing import NDArray

    from vmaforensics.export.page_source import PageSources
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

MOST_BYTES = 4 << 30  # unless the caller says more
MANIFEST = "manifest.json"
_CHUNK = 1 << 12  # pages read at once
_GRAIN = 64  # pages that become a hole of the file where all are zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """What to extract: addresses ``[start, end)`` of the process of ``mm``, or without one, of physical memory."""

    start: int
    end: int
    mm: int | None
    pid: int | None
    file: str  # name of the file: numbers only
    what: str  # in words
    facts: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of_process(cls, mm: int, pid: int, bounds: tuple[int, int], what: str = "", **facts: object) -> Region:
        """The addresses from the first of ``bounds`` to before the second of a process."""
        start, end = bounds
        return cls(
            start=start,
            end=end,
            mm=mm,
            pid=pid,
            file=f"{max(pid, 0)}-{start:x}-{end:x}.bin",
            what=what,
            facts={"pid": pid, "mm": hex(mm), **facts},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One region as it was written. ``counts`` are pages by state, in the order of ``STATES``."""

    region: Region
    sha256: str
    counts: dict[str, int]
    runs: list[PageRecord]


def check_size(regions: list[Region], most: int) -> None:
    """Raise :class:`UsageError` if ``regions`` have more than ``most`` bytes, or none."""
    total = sum(region.end - region.start for region in regions)
    if total <= 0:
        raise UsageError("there is nothing to extract: the range is empty")
    if total > most:
        raise UsageError(f"the range has {total} bytes, more than {most}; give --max {total} to extract it anyway")


def open_folder(path: Path, *, force: bool = False) -> None:
    """Make sure that ``path`` is a folder to write into.

    Raises :class:`OutputError` if it is something else, cannot be made (its parent must exist), or holds
    anything and ``force`` is not given. What it holds is never removed; files of the same names are replaced.
    """
    try:
        path.mkdir(exist_ok=True)
        held = any(path.iterdir())
    except FileExistsError:
        raise OutputError(f"{path} exists and is no folder") from None
    except OSError as error:
        raise OutputError(f"cannot write into {path}: {error.strerror}") from None
    if held and not force:
        raise OutputError(f"the folder {path} is not empty; choose another one or give --force")


def extract(
    kernel: Kernel,
    views: Views,
    regions: list[Region],
    folder: Path | Callable[[str], AbstractContextManager[IO[bytes]]],
    facts: dict[str, object],
) -> list[Written]:
    """Write ``regions`` into ``folder``, an existing one, and the manifest last.

    In place of a folder, a function may be given that opens a file of a name for writing; the file has to
    seek, and to grow when it is truncated beyond its end. ``facts`` go to the head of the manifest. Raises
    :class:`OutputError` if something cannot be written; what was finished before stays, without a manifest.
    """
    names = [region.file for region in regions]
    if len(set(names)) != len(names):
        raise UsageError("two regions have the same bounds")
    written = []
    for region in regions:
        with _opened(folder, region.file) as stream:
            written.append(write_region(kernel, views, region, stream))
    document = {
        "tool": "vmaforensics",
        "version": __version__,
        **facts,
        "kernel": printable(kernel.identity.release),
        "page_size": kernel.arch.page_size,
        "states": STATES,
        "regions": [
            {
                "file": part.region.file,
                "size": part.region.end - part.region.start,
                "sha256": part.sha256,
                "start": hex(part.region.start),
                "end": hex(part.region.end),
                "what": part.region.what,
                **part.region.facts,
                "pages": part.counts,
                "runs": part.runs,
            }
            for part in written
        ],
    }
    with _opened(folder, MANIFEST) as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    return written


def _opened(
    folder: Path | Callable[[str], AbstractContextManager[IO[bytes]]], name: str
) -> AbstractContextManager[IO[bytes]]:
    return folder(name) if callable(folder) else whole_file(folder / name)


def write_region(kernel: Kernel, views: Views, region: Region, stream: IO[bytes]) -> Written:
    """One region into an empty file, a piece at a time. Pages without bytes become holes of the file."""
    digest = hashlib.sha256()
    counts = np.zeros(len(STATES), np.int64)
    runs: list[PageRecord] = []
    step = _CHUNK * kernel.arch.page_size
    for start in range(region.start, region.end, step):
        end = min(start + step, region.end)
        if region.mm is None:
            pages = frame_pages(kernel, start, end)
        else:
            pages = mapped_pages(kernel, views.mms, views.page_tables, region.mm, start, end)
        _add_runs(runs, pages)
        counts += np.bincount(pages.state, minlength=len(STATES))
        for data in _bytes_of(kernel, pages):
            digest.update(data.data)
            if data.any():
                stream.write(data.data)
            else:
                stream.seek(data.size, os.SEEK_CUR)
    stream.truncate(region.end - region.start)
    by_state = {name: count for name, count in zip(STATES, counts.tolist(), strict=True) if count}
    return Written(region=region, sha256=digest.hexdigest(), counts=by_state, runs=runs)


def _bytes_of(kernel: Kernel, pages: PageSources) -> Iterator[NDArray[np.uint8]]:
    """The bytes of ``pages`` in order, in arrays; zeros for those that have none."""
    held, size = pages.has_bytes, kernel.arch.page_size
    data = np.zeros((len(held), size), np.uint8)
    if held.any():
        data[held], _ = kernel.memory.gather(kernel.arch.bytes_of(pages.pfn[held]), size)
    for low in range(0, len(held), _GRAIN):
        yield data[low : low + _GRAIN].reshape(-1)


def _add_runs(runs: list[PageRecord], pages: PageSources) -> None:
    """Append the runs of ``pages``, joined to the last where that goes on."""
    for record in pages.records():
        if runs and runs[-1].joins(record):
            runs[-1] = msgspec.structs.replace(runs[-1], pages=runs[-1].pages + record.pages)
        else:
            runs.append(record)
