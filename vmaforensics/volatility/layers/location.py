# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Which local file lies under a layer of volatility3, and whether volatility3 sees it as it lies on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from volatility3.framework.layers.physical import FileLayer

if TYPE_CHECKING:
    from volatility3.framework.interfaces.layers import DataLayerInterface

log = logging.getLogger(__name__)

_COMPARED = 4096  # bytes of a file by which we tell whether volatility3 sees it as it lies on disk


def local_path(location: str) -> Path | None:
    """The path that a ``file:`` URL names; None for any other URL."""
    url = urlsplit(location)
    if url.scheme != "file" or url.netloc not in ("", "localhost"):
        return None
    return Path(url2pathname(url.path))


def local_file(layer: DataLayerInterface | None) -> Path | None:
    """The local file whose very bytes ``layer`` shows, if there is one: volatility3 unpacks as it reads."""
    if not isinstance(layer, FileLayer):
        return None
    path = local_path(layer.location)
    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            start = stream.read(_COMPARED)
        same = not start or start == layer.read(0, min(len(start), layer.maximum_address + 1))
    except Exception as error:  # a layer may raise whatever its decoder raises
        log.debug("%s cannot be compared with its layer: %s", path, error)
        return None
    return path if same else None
