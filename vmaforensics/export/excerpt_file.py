"""Excerpts: a smaller image that holds some pages of another, and everything its container said.

The new file is kdump-compressed. RAM stays RAM: a page that was left out is *not in the dump*, as opposed to
*not RAM*, just as if the acquisition had filtered it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.errors import OutputError
from vmaforensics.image.kdump.writer import LEVEL, Head, write_kdump
from vmaforensics.image.placed import PageState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from vmaforensics.image.image import Image
    from vmaforensics.image.kdump.writer import Written
    from vmaforensics.image.memory import PhysicalMemory

FILTERED = 31  # makedumpfile's dump level that leaves out free, cache and user pages

_BATCH = 1 << 20  # frames
_HIGHEST = 1 << 45  # bytes of address space whose bitmap the writer agrees to write


def held_frames(memory: PhysicalMemory) -> NDArray[np.uint64]:
    """Every page frame number whose page the image holds or knows to be zero; ascending, uint64.

    Raises :class:`OutputError` if RAM is said to reach beyond what an excerpt can describe.
    """
    top = int(memory.ranges[:, 1].max()) if len(memory.ranges) else 0
    if top > _HIGHEST:
        raise OutputError(
            f"the image says that RAM reaches up to {top:#x}, beyond the {_HIGHEST:#x} (32 TiB) that an excerpt can "
            "describe; its header cannot be believed"
        )
    found = [np.zeros(0, np.uint64)]
    for start, end in memory.ranges.tolist():
        last = -(-end // memory.page_size)
        for low in range(start >> memory.page_shift, last, _BATCH):
            pfns = np.arange(low, min(low + _BATCH, last), dtype=np.uint64)
            found.append(pfns[memory.page_states(pfns) <= PageState.ZERO])
    return distinct(np.concatenate(found))


def write_excerpt(
    stream: BinaryIO,
    image: Image,
    pfns: NDArray[np.uint64],
    *,
    vmcoreinfo: bytes | None = None,
    utsname: Mapping[str, str] | None = None,
    filtered: bool = True,
    level: int = LEVEL,
) -> Written:
    """Write the page frames ``pfns`` of ``image`` to the seekable ``stream``, from its beginning.

    RAM ranges and notes are those of the image; ``vmcoreinfo`` takes the place of its VMCOREINFO note, or is
    added. ``utsname`` is what the header says of the machine (see :func:`write_kdump`). ``filtered`` tells
    crash tools that pages are missing on purpose; otherwise the flags say what those of the image said.
    ``level`` is zstd's.
    """
    said = image.details.get("dump level", "")
    return write_kdump(
        stream,
        image.memory,
        pfns,
        Head(
            vmcoreinfo=image.vmcoreinfo if vmcoreinfo is None else vmcoreinfo,
            notes=image.notes,
            utsname=utsname,
            dump_level=FILTERED if filtered else int(said) if said.isdigit() else 0,
        ),
        level=level,
    )
