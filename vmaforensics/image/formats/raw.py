"""Raw images: file offset is physical address (QEMU ``pmemsave``, LiME ``padded``, ``dd`` of /dev/mem)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.image.formats.segments import Segments, lay_out
from vmaforensics.image.image import Image

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.source import FileSource

VMWARE_HOLE = 3 << 30  # a .vmem file leaves out what lies between 3 and 4 GiB


def open_raw(path: Path, source: FileSource) -> Image:
    """Every byte of the file is RAM; a last page that is not whole is held as far as it goes."""
    size = len(source)
    memory, problems = lay_out(source, Segments.of_rows([(0, size, size, 0, 0)]))
    if path.suffix == ".vmem" and size > VMWARE_HOLE:
        problems.append(
            "a VMware .vmem file larger than 3 GiB leaves out the PCI hole, so addresses from 4 GiB up "
            "are read from the wrong place; convert it together with its .vmss or .vmsn first"
        )
    if size % memory.page_size:
        problems.append(
            f"the size of a raw image, {size:#x} bytes, is not a multiple of {memory.page_size}; "
            "the file may be truncated"
        )
    return Image(path=path, size=size, format="raw", memory=memory, problems=tuple(problems))
