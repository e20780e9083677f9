"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vmaforensics.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A binary stream into a temporary file beside ``target`` that takes its place at the end.

    A file of its name is replaced, and so is a link to one. When the body fails, nothing is left behind. Raises
    :class:`OutputError` where ``target`` cannot be written, or is a device, a pipe or a folder, whose place no
    file may take.
    """
    if target.exists() and not target.is_file():
        raise OutputError(f"{target} is no regular file and is not replaced; give a name to write to, or use stdout")
    try:
        number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:64]}.")
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from None
    partial = Path(name)
    try:
        with os.fdopen(number, "wb") as stream:
            yield stream
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(stream.fileno(), 0o666 & ~umask)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write {target}: {error.strerror}") from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
