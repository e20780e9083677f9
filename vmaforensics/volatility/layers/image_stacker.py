# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Puts an :class:`ImageLayer` over files of which volatility3 would make a wrong layer, or none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from volatility3.framework import interfaces

from vmaforensics.errors import VmaForensicsError
from vmaforensics.image.formats.raw import RawMemory
from vmaforensics.volatility.layers.image_layer import ImageLayer
from vmaforensics.volatility.layers.location import local_file
from vmaforensics.volatility.layers.opened import opened
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from volatility3.framework.interfaces.context import ContextInterface

    from vmaforensics.image.image import Image

log = logging.getLogger(__name__)


class ImageStacker(interfaces.automagic.StackerLayerInterface):  # type: ignore[misc]  # volatility3 is untyped
    """Asked before volatility3's own stackers of formats (10); says no to what they read rightly."""

    stack_order = 9
    exclusion_list = ("mac", "windows")

    @classmethod
    def stack(
        cls,
        context: ContextInterface,
        layer_name: str,
        progress_callback: Callable[[float, str], None] | None = None,
    ) -> interfaces.layers.DataLayerInterface | None:
        """A layer over the file under ``layer_name``, if that is one of ours to read."""
        base = context.layers[layer_name]
        path = local_file(base)
        if path is None:
            return None
        try:
            image = opened(path).laid_out
        except VmaForensicsError as error:
            log.info("%s", printable(str(error)))  # said again, louder, if nobody else can make anything of it
            return None
        if not ours(image):
            return None
        name = context.layers.free_layer_name("ImageLayer")
        config_path = interfaces.configuration.path_join("vmaforensics", name)
        context.config[interfaces.configuration.path_join(config_path, "location")] = _location(base)
        return ImageLayer(context, config_path, name)


def ours(image: Image) -> bool:
    """Would volatility3's own layer be wrong, or is there none?

    Its ELF layer leaves out every segment with ``p_filesz`` other than ``p_memsz`` (makedumpfile -E splits
    segments so) and knows no PN_XNUM; it is not made at all, or raises as it reads, where the file is truncated or
    segments overlap. Its LiME layer takes the text that LEMON writes for pages it could not read for memory. Its
    AVML layer needs libsnappy and unpacks everything, twice. A raw file is no layer to it, but the file itself, which
    is wrong where memory does not lie in it from physical address 0 on.
    """
    if not len(image.memory.ranges):
        return False
    if isinstance(image.memory, RawMemory):
        return "container" in image.details or image.memory.moved
    return image.format != "elf" or bool(image.problems) or not _plain_elf(image)


def _plain_elf(image: Image) -> bool:
    """Does every program header with memory have as much of it in the file, and is their number in e_phnum?"""
    import numpy as np

    from vmaforensics.image.formats.elf import NO_PADDR, PN_XNUM, PROGRAM_HEADER, PT_LOAD
    from vmaforensics.image.source import map_file

    buffer = map_file(image.path)
    if bytes(buffer[:4]) != b"\x7fELF":  # an ELF core within a flattened stream
        return False
    at, count = (int.from_bytes(bytes(buffer[low:high]), "little") for low, high in ((32, 40), (56, 58)))
    if count == PN_XNUM or at + count * PROGRAM_HEADER.itemsize > len(buffer):
        return False
    table = np.frombuffer(buffer, PROGRAM_HEADER, count, at)
    loads = table[table["type"] == PT_LOAD]
    return bool((loads["filesz"] == loads["memsz"]).all() and (loads["paddr"] != NO_PADDR).all())


def _location(layer: Any) -> str:  # noqa: ANN401
    return str(layer.location)
