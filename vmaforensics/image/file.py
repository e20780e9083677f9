"""A file, before it is known what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.errors import ImageUnreadableError

if TYPE_CHECKING:
    from pathlib import Path

FIRST = 1 << 16  # bytes that decide what a file is
# What makedumpfile and QEMU write, as a file or as a flattened stream; LiME; AVML
MAGICS = (b"\x7fELF", b"KDUMP   ", b"DISKDUMP", b"makedumpfile\0\0\0\0", b"EMiL", b"AVML")


def require_file(path: Path) -> None:
    """Raise :class:`ImageUnreadableError` if ``path`` is missing, no regular file, empty, or may not be looked at."""
    try:
        # Before opening it: opening a fifo for reading would wait for a writer.
        if not path.exists():
            if path.is_symlink():
                raise ImageUnreadableError(f"{path} is a link that leads to no file; give the path of a memory image")
            raise ImageUnreadableError(f"{path}: no such file; give the path of a memory image")
        if path.is_dir():
            raise ImageUnreadableError(f"{path} is a directory; give the path of a memory image file")
        if path.is_char_device() or path.is_block_device():
            raise ImageUnreadableError(
                f"{path} is a device; of a running machine give /proc/kcore, else copy the memory into a file first"
            )
        if not path.is_file():
            raise ImageUnreadableError(f"{path} is not a regular file; copy the memory into a file first")
        if path.stat().st_size == 0:
            raise ImageUnreadableError(f"{path} is empty; give a memory image")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def first_bytes(path: Path, size: int = FIRST) -> bytes:
    """The first ``size`` bytes of a file, fewer if it has not as many. Raises :class:`ImageUnreadableError`."""
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError | ValueError) -> ImageUnreadableError:
    """What to raise where the system refuses a file."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ImageUnreadableError(f"{path} cannot be read: {why}; check the path and its permissions")
