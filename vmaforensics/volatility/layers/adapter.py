# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""From a layer of volatility3 to an image of the engine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from volatility3.framework.layers.physical import FileLayer

from vmaforensics.errors import UnsupportedFormatError, VmaForensicsError
from vmaforensics.image.image import Image
from vmaforensics.volatility.layers.image_layer import ImageLayer
from vmaforensics.volatility.layers.layer_memory import LayerMemory
from vmaforensics.volatility.layers.location import local_file, local_path
from vmaforensics.volatility.layers.opened import Subject, opened
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from volatility3.framework.interfaces.context import ContextInterface
    from volatility3.framework.interfaces.layers import DataLayerInterface

log = logging.getLogger(__name__)


def subject_of_layer(context: ContextInterface, layer_name: str) -> Subject:
    """The image under a layer, of any kind: an address space, a container format or a file.

    If it all comes from one local file that ``open_image`` reads, that file is opened: it is mapped
    instead of read, and formats that volatility3 takes for raw (kdump) are read as what they are. Otherwise
    the image is read through volatility3's layer, which may be many times slower.

    Raises :class:`UnsupportedFormatError` for a format that neither side knows, and
    :class:`ImageUnreadableError` for an empty file.

    >>> image = subject_of_layer(self.context, self.config["primary"]).image
    """
    layer = physical_layer(context, layer_name)
    if isinstance(layer, ImageLayer):
        own = local_path(layer.config["location"])
        if own is not None:
            return opened(own)
    base = _base(context, layer)
    path = local_file(base)
    if path is not None:
        try:
            subject = opened(path)
        except VmaForensicsError as error:
            unknown = isinstance(error, UnsupportedFormatError) or layer.maximum_address < 0
            if layer is base and unknown:
                raise  # volatility3 knows no format here either: reading the file as raw would be a guess
            log.info("reading %s through layer %s: %s", path, layer.name, error)
        else:
            # To us every unknown file is raw; if volatility3 has recognised a format in it, it knows better.
            if subject.image.format != "raw" or layer is base:
                return subject
    elif layer is base and isinstance(layer, FileLayer):
        log.warning(
            "%s is unpacked or fetched piece by piece; if that takes too long, unpack it into a file first",
            printable(str(getattr(layer, "location", layer.name))),
        )
    memory = LayerMemory(layer)
    image = Image(
        path=path or Path(layer.name),
        size=memory.size,
        format=f"volatility3 {type(layer).__name__}",
        memory=memory,
        details={"layer": layer.name},
    )
    return Subject(image)


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
