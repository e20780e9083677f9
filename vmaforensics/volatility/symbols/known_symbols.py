# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Symbol files the user has given to volatility3, by the banner of the kernel they are of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from volatility3.framework.automagic import symbol_cache

from vmaforensics.volatility.layers.location import local_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmaforensics.image.image import Image

log = logging.getLogger(__name__)

_START = b"Linux version "
_LONGEST = 512  # bytes of a banner


def known_symbol_files() -> dict[bytes, str]:
    """URL of a symbol file by the banner of its kernel, as volatility3 has them in its cache."""
    try:
        known = symbol_cache.load_cache_manager().get_identifier_dictionary(operating_system="linux")
    except Exception as error:  # its data base may be missing, locked or damaged
        log.debug("volatility3's list of symbol files: %s", error)
        return {}
    return {bytes(banner): str(url) for banner, url in known.items() if banner}


def fitting_symbol_files(image: Image) -> Iterator[Path]:
    """Local symbol files for kernels whose banner is somewhere in the image's memory, each once."""
    known = known_symbol_files()
    paths = {banner.rstrip(b"\n\0"): local_path(url) for banner, url in known.items()}
    if not any(paths.values()):
        return
    seen: set[Path] = set()
    for banner in banners(image):
        path = paths.get(banner)
        if path is not None and path not in seen:
            seen.add(path)
            yield path


def banners(image: Image) -> Iterator[bytes]:
    """Every ``Linux version …`` line in the memory of an image, up to the newline or NUL that ends it."""
    for _, chunk in image.memory.chunks():
        raw = chunk.tobytes()
        at = raw.find(_START)
        while at >= 0:
            yield raw[at : at + _LONGEST].split(b"\n", 1)[0].split(b"\0", 1)[0]
            at = raw.find(_START, at + 1)
