"""Files that appear whole or not at all."""

from __future__ import annotations

import secrets
import stat
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from vmaforensics.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A binary stream into a temporary file beside ``target`` that takes its place at the end.

    A file of its name is replaced, and so is a link to one. When the body fails, nothing is left behind. Raises
    :class:`OutputError` where ``target`` cannot be written, or is a device, a pipe or a folder, whose place no
    file may take.
    """
    occupied(target)
    # The name is known before the file is there, so that no interrupt comes between and leaves it behind.
    partial = target.parent / f".{target.name[:64]}.{secrets.token_hex(8)}"
    try:
        with partial.open("xb") as stream:
            yield stream
        partial.replace(target)
    except OSError as error:
        _remove(partial)
        raise OutputError(f"cannot write {target}: {error.strerror}") from None
    except BaseException:
        _remove(partial)
        raise


def occupied(target: Path) -> bool:
    """Whether a file of this name is there; raises :class:`OutputError` if it is anything but a regular file."""
    try:
        mode = target.stat().st_mode
    except OSError:  # nothing there, or nothing that can be written: opening it will tell
        return False
    if not stat.S_ISREG(mode):
        raise OutputError(f"{target} is no regular file and is not replaced; give a name to write to, or use stdout")
    return True


def _remove(partial: Path) -> None:
    with suppress(OSError):
        partial.unlink(missing_ok=True)
