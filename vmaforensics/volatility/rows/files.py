# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Files written through volatility3's file interface, which puts them where the user said."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)


class Output:
    """Opens files of a plugin run (``plugin.open``) and keeps under what names they were written."""

    def __init__(self, open_file: Callable[[str], Any]) -> None:
        self._open = open_file
        self.names: dict[str, str] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[Any]:
        """A file for writing. ``name`` is made of our own words and numbers, never of the image's."""
        handle = self._open(name)
        with handle:
            yield _Growing(handle)
        final = self.names[name] = str(handle.preferred_filename)
        if final != name:
            log.warning("%s was there already; what is called so here was written as %s", name, printable(final))


class _Growing:
    """A file that grows when it is truncated beyond its end, which not all of volatility3's do."""

    def __init__(self, handle: Any) -> None:  # noqa: ANN401
        self._handle = handle

    def write(self, data: Any) -> int:  # noqa: ANN401
        return int(self._handle.write(data))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._handle.seek(offset, whence))

    def truncate(self, size: int) -> int:
        end = self._handle.seek(0, 2)
        if end < size:
            self._handle.seek(size - 1)
            self._handle.write(b"\0")
        return size
