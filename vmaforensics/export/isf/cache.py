"""ISFs made from images, kept in the user's cache directory by the kernel's build id."""

from __future__ import annotations

import lzma
import re
from typing import TYPE_CHECKING

from vmaforensics.cache import base_folder
from vmaforensics.errors import OutputError
from vmaforensics.export.isf.document import isf_document, isf_key, write_isf
from vmaforensics.export.whole_file import whole_file
from vmaforensics.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.kernel.kernel import Kernel

_FORM = 1  # counts up when the same kernel gives another file


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/vmaforensics/isf`` or ``~/.cache/vmaforensics/isf``; it need not exist."""
    return base_folder() / "isf"


def cached_isf(kernel: Kernel) -> Path:
    """A file with the ISF of ``kernel`` (``.json.xz``), made now unless an earlier run left it.

    The name has the build id, and a hash of what the file is made of: an image can claim any build id, and
    must not spoil the file of the kernel whose id that is. An entry that does not unpack is made again.
    Raises :class:`KernelNotFoundError` for a kernel that has no BTF or no symbols of its own, and
    :class:`OutputError` where the cache directory cannot be written.
    """
    directory = cache_directory()
    path = directory / f"{_build_id(kernel)}-{isf_key(kernel)[:16]}-{__version__}.{_FORM}.json.xz"
    if _whole(path):
        return path
    document = isf_document(kernel)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise OutputError(f"cannot make the cache directory {directory}: {error.strerror}") from None
    with whole_file(path) as stream:
        write_isf(document, stream, ".json.xz")
    return path


def _build_id(kernel: Kernel) -> str:
    stated = kernel.identity.build_id or ""
    return stated if re.fullmatch("[0-9a-f]{16,64}", stated) else "unknown"


def _whole(path: Path) -> bool:
    """Does the file unpack to its end? xz ends with a checksum; what it holds was ours when it was written."""
    try:
        with lzma.open(path) as stream:
            while stream.read(1 << 20):
                pass
    except (OSError, lzma.LZMAError, EOFError):
        return False
    return True
