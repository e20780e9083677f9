"""The bytes of a file that people may have packed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any

from vmaforensics.errors import SymbolFileError

_LIMIT = 1 << 29  # bytes unpacked; dwarf2json's file of Linux 7.3 has 61 MiB
_READERS: dict[bytes, Any] = {b"\xfd7zXZ\0": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}


def unpacked(path: Path, size: int = -1) -> bytes:
    """The first ``size`` bytes of a file, by default all of them; out of xz, gzip or bzip2 if it is packed so.

    Raises :class:`SymbolFileError` for a file that cannot be read, or has far more than any symbol file.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(6)
        reader = next((opener for magic, opener in _READERS.items() if start.startswith(magic)), Path.open)
        with reader(path, mode="rb") as packed:
            data: bytes = packed.read(_LIMIT + 1 if size < 0 else size)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise SymbolFileError(f"the symbol file {path} cannot be read: {error}") from None
    if len(data) > _LIMIT:
        raise SymbolFileError(
            f"the symbol file {path} has more than {_LIMIT >> 20} MiB when unpacked: it is not a symbol file"
        )
    return data
