"""Excerpts: a smaller image that holds some pages of another, and everything its container said.

The new file is kdump-compressed. RAM stays RAM: a page that was left out is *not in the dump*, as opposed to
*not RAM*, just as if the acquisition had filtered it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import OutputError
from vmaforensics.image.kdump_writer import write_kdump
from vmaforensics.image.memory import PAGE_SHIFT, PAGE_SIZE, PageState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from vmaforensics.image.image import Image
    from vmaforensics.image.kdump_writer import Written
    from vmaforensics.image.memory import PhysicalMemory

_BATCH = 1 << 20  # frames
_HIGHEST = 1 << 45  # bytes of address space whose bitmap the writer agrees to write


def held_frames(memory: PhysicalMemory) -> NDArray[np.uint64]:
    """Every page frame number whose page the image holds or knows to be zero; ascending, uint64."""
    found = [np.zeros(0, np.uint64)]
    for start, end in memory.ranges.tolist():
        last = -(-end // PAGE_SIZE)
        for low in range(start >> PAGE_SHIFT, last, _BATCH):
            pfns = np.arange(low, min(low + _BATCH, last), dtype=np.uint64)
            found.append(pfns[memory.page_states(pfns) <= PageState.ZERO])
    return np.unique(np.concatenate(found))


def check_output(out: Path, image: Image, *, force: bool = False) -> None:
    """Raises :class:`OutputError` if :func:`write_excerpt` would refuse; ask before the work is done."""
    if out.exists() or out.is_symlink():
        if out.exists() and out.samefile(image.path):
            raise OutputError(f"{out} is the image itself; give another name for the excerpt")
        if not force:
            raise OutputError(f"{out} exists already; give another name, or --force to replace it")
        if out.is_dir():
            raise OutputError(f"{out} is a directory; give the name of a file in it")
    if not out.parent.is_dir():
        raise OutputError(f"there is no directory {out.parent} to write {out.name} in; make it first")
    top = int(image.memory.ranges[:, 1].max()) if len(image.memory.ranges) else 0
    if top > _HIGHEST:
        raise OutputError(
            f"the image says that RAM reaches up to {top:#x}, beyond the {_HIGHEST:#x} (32 TiB) that an "
            "excerpt can describe; its header cannot be believed"
        )


def write_excerpt(
    out: Path,
    image: Image,
    pfns: NDArray[np.uint64],
    *,
    vmcoreinfo: bytes | None = None,
    utsname: Mapping[str, str] | None = None,
    dump_level: int = 31,
    force: bool = False,
) -> Written:
    """Write the page frames ``pfns`` of ``image`` to the new file ``out``.

    RAM ranges and notes are those of the image; ``vmcoreinfo`` takes the place of its VMCOREINFO note, or is
    added. ``dump_level`` tells crash tools what may be missing (makedumpfile's -d). The file appears complete
    or not at all: it is written beside ``out`` under a temporary name. Raises :class:`OutputError` as
    :func:`check_output` does, and when the file cannot be written.
    """
    check_output(out, image, force=force)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        stream = partial.open("xb")
    except OSError as error:
        raise OutputError(f"cannot write to {out.parent}: {error.strerror}") from error
    try:
        with stream:
            written = write_kdump(
                stream,
                image.memory,
                pfns,
                vmcoreinfo=image.vmcoreinfo if vmcoreinfo is None else vmcoreinfo,
                notes=image.notes,
                utsname=utsname,
                dump_level=dump_level,
            )
            stream.flush()
            os.fsync(stream.fileno())
        check_output(out, image, force=force)  # it may have come into being meanwhile
        partial.replace(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return written
