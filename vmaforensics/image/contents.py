"""A name for what an image holds, by its contents: two images of one name are taken for the same until proved."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmaforensics.image.image import Image

_ENDS = 1 << 16  # bytes at the beginning and at the end of a file
_PIECE = 1 << 12  # bytes
_PIECES = 32  # of each file, spread evenly: a disk has to seek for each


def contents_key(image: Image) -> str | None:
    """A hash of the sizes of the image's files, a sample of their bytes and the notes in them; hexadecimal.

    The sample is small, so that what is known by this name has to be proved where it matters. None for an image that
    is not just what lies in its files: one that was edited, or is read from a machine that runs.
    """
    if not image.files or not image.memory.as_in_file:
        return None
    found = hashlib.sha256(f"{image.format} {len(image.files)}".encode())
    for file in image.files:
        size = len(file)
        found.update(size.to_bytes(8, "little"))
        found.update(file[:_ENDS])
        found.update(file[max(size - _ENDS, 0) :])
        for at in range(0, size, -(-size // _PIECES)):
            found.update(file[at : at + _PIECE])
    found.update(image.vmcoreinfo or b"")
    return found.hexdigest()
