# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""The parts of a split kdump. volatility3 takes one file: the others are looked for beside it.

makedumpfile --split writes one dump into several files of any names. Each has the same header and bitmaps and
the pages of one window of page frames, which its sub header names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.errors import VmaForensicsError
from vmaforensics.image.kdump.header import MAIN_HEADER, KdumpHeader, read_header
from vmaforensics.image.source import map_file

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"KDUMP   "
_STATUS_AT = 424
_MOST_FILES = 4096  # looked at in the directory


def parts_of(path: Path) -> list[Path]:
    """``path``, and where it is one part of a split dump, the files beside it that are the others.

    Another file is taken for a part if its header is that of the same dump: the same machine, kernel and
    time, to the microsecond, and the same VMCOREINFO. Sorted by window; copies of a window are left out.
    """
    own = _header(path)
    if own is None or own[0].window is None:
        return [path]
    found: dict[tuple[int, int], Path] = {own[0].window: path}
    for other in sorted(path.parent.iterdir())[:_MOST_FILES]:
        if other == path or not other.is_file():
            continue
        theirs = _header(other)
        if theirs is not None and theirs[0].window is not None and theirs[1] == own[1]:
            found.setdefault(theirs[0].window, other)
    return [found[window] for window in sorted(found)]


def _header(path: Path) -> tuple[KdumpHeader, bytes] | None:
    """The header of a kdump file, and the bytes of it that all parts of a dump share; None for another file."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                return None
        buffer = map_file(path)
        header, _ = read_header(path, buffer.data)
    except (OSError, VmaForensicsError):
        return None
    # From the version to the time stamp (utsname, tv_sec, tv_usec), the sizes behind the status, VMCOREINFO.
    at, size = header.vmcoreinfo or (0, 0)
    shared = (slice(8, _STATUS_AT), slice(_STATUS_AT + 4, MAIN_HEADER.sizeof()), slice(at, at + size))
    return header, b"".join(bytes(buffer[piece]) for piece in shared)
