# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""From a layer of volatility3 to an image of the engine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from volatility3.framework.layers.physical import FileLayer

from vmaforensics.errors import UnsupportedFormatError, VmaForensicsError
from vmaforensics.image.image import Image
from vmaforensics.image.open import open_image
from vmaforensics.report.printable import printable
from vmaforensics.volatility.layer_memory import LayerMemory

if TYPE_CHECKING:
    from volatility3.framework.interfaces.context import ContextInterface
    from volatility3.framework.interfaces.layers import DataLayerInterface

log = logging.getLogger(__name__)

_COMPARED = 4096  # bytes of a file by which we tell whether volatility3 sees it as it lies on disk


def image_from_layer(context: ContextInterface, layer_name: str) -> Image:
    """The image under a layer, of any kind: an address space, a container format or a file.

    If it all comes from one local file that :func:`open_image` reads, that file is opened: it is mapped
    instead of read, and formats that volatility3 takes for raw (kdump) are read as what they are. Otherwise
    the image is read through volatility3's layer, which may be many times slower.

    Raises :class:`UnsupportedFormatError` for a format that neither side knows, and
    :class:`ImageUnreadableError` for an empty file.

    >>> image = image_from_layer(self.context, self.config["primary"])
    """
    layer = physical_layer(context, layer_name)
    base = _base(context, layer)
    path = _local_file(base)
    if path is not None:
        try:
            image = open_image(path)
        except VmaForensicsError as error:
            unknown = isinstance(error, UnsupportedFormatError) or layer.maximum_address < 0
            if layer is base and unknown:
                raise  # volatility3 knows no format here either: reading the file as raw would be a guess
            log.info("reading %s through layer %s: %s", path, layer.name, error)
        else:
            # To us every unknown file is raw; if volatility3 has recognised a format in it, it knows better.
            if image.format != "raw" or layer is base:
                return image
    elif layer is base and isinstance(layer, FileLayer):
        log.warning(
            "%s is unpacked or fetched piece by piece; if that takes too long, unpack it into a file first",
            printable(str(getattr(layer, "location", layer.name))),
        )
    memory = LayerMemory(layer)
    return Image(
        path=path or Path(layer.name),
        size=memory.size,
        format=f"volatility3 {type(layer).__name__}",
        memory=memory,
        details={"layer": layer.name},
    )


def physical_layer(context: ContextInterface, layer_name: str) -> DataLayerInterface:
    """The physical memory under ``layer_name``, which may be an address space of volatility3's own."""
    layer = context.layers[layer_name]
    while layer.metadata.get("mapped", False):  # so says layers.intel of itself
        layer = context.layers[layer.config.get("memory_layer", None) or layer.dependencies[0]]
    return layer


def _base(context: ContextInterface, layer: DataLayerInterface) -> DataLayerInterface | None:
    """What a container format lies on, or None if that is more than one layer."""
    while layer.dependencies:
        if len(layer.dependencies) > 1:
            return None
        layer = context.layers[layer.dependencies[0]]
    return layer


def _local_file(layer: DataLayerInterface | None) -> Path | None:
    """The local file whose very bytes ``layer`` shows, if there is one: volatility3 unpacks as it reads."""
    if not isinstance(layer, FileLayer):
        return None
    url = urlsplit(layer.location)
    if url.scheme != "file" or url.netloc not in ("", "localhost"):
        return None
    path = Path(url2pathname(url.path))
    try:
        with path.open("rb") as stream:
            start = stream.read(_COMPARED)
        same = not start or start == layer.read(0, min(len(start), layer.maximum_address + 1))
    except Exception as error:  # a layer may raise whatever its decoder raises
        log.debug("%s cannot be compared with its layer: %s", path, error)
        return None
    return path if same else None
