# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""What every plugin does around its rows: read the image once, and say in the log what went wrong."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmaforensics.errors import VmaForensicsError
from vmaforensics.kernel.find import find_kernel
from vmaforensics.report.printable import printable
from vmaforensics.views.gather import gather_views
from vmaforensics.volatility.adapter import image_from_layer
from vmaforensics.volatility.regions import Row, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volatility3.framework.interfaces.context import ContextInterface

    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.tables import Views

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One image, read."""

    image: Image
    kernel: Kernel
    views: Views


def read(context: ContextInterface, layer_name: str, progress: Callable[[float, str], None]) -> Session:
    """Read the image under ``layer_name``; whatever was missing or wrong in it goes to the log as warnings.

    Raises :class:`VmaForensicsError` when there is nothing to read.
    """
    progress(0, "Opening the image")
    image = image_from_layer(context, layer_name)
    progress(10, f"Looking for the kernel in a {image.format} image")
    kernel = find_kernel(image)
    progress(60, f"Reading the memory maps of Linux {printable(kernel.identity.release)}")
    views = gather_views(kernel, wanted=())
    progress(100, "Memory maps read")
    for text in (*image.problems, *kernel.identity.problems, *image.memory.problems(), *summary(views)):
        log.warning("%s", printable(text))
    return Session(image=image, kernel=kernel, views=views)


def grid(rows: Iterator[Row]) -> Iterator[tuple[int, Row]]:
    """``rows`` for a TreeGrid. An error ends them with one line in the log: one that left a generator would
    take the rows before it along, in the renderers that print at the end."""
    try:
        for row in rows:
            yield 0, row
    except VmaForensicsError as error:
        log.error("%s", printable(str(error)))
    except Exception as error:
        log.error("this is a bug in vmaforensics: %s", printable(f"{type(error).__name__}: {error}"))
        log.debug("traceback", exc_info=True)
