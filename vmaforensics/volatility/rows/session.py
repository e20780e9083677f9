# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""What every plugin does around its rows: read the image once, and say in the log what went wrong."""

from __future__ import annotations

import gc
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3.framework.configuration import requirements

from vmaforensics.errors import VmaForensicsError
from vmaforensics.volatility.layers import discovery  # noqa: F401 - so that volatility3 finds what is there
from vmaforensics.volatility.layers.adapter import subject_of_layer
from vmaforensics.volatility.layers.stacking import PhysicalLayerRequirement
from vmaforensics.volatility.rows.regions import Row, summary
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from volatility3.framework.interfaces.configuration import RequirementInterface
    from volatility3.framework.interfaces.context import ContextInterface

    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One image, read."""

    image: Image
    kernel: Kernel
    views: Views


def layer_requirement() -> RequirementInterface:
    """The memory to read: a layer and no module, which would ask for a symbol file."""
    return PhysicalLayerRequirement(name="primary", description="Memory layer to read")


def pid_requirement() -> RequirementInterface:
    """``--pid``, as volatility3's own plugins have it."""
    return requirements.ListRequirement(
        name="pid",
        element_type=int,
        description="Process ids to include (all others are left out)",
        optional=True,
    )


def address_requirement(description: str) -> RequirementInterface:
    """``--address``, any number of virtual addresses."""
    return requirements.ListRequirement(name="address", element_type=int, description=description, optional=True)


def read(
    context: ContextInterface,
    layer_name: str,
    progress: Callable[[float, str], None],
    wanted: Collection[str] = (),
) -> Session:
    """Read the image under ``layer_name``; whatever was missing or wrong in it goes to the log as warnings.

    ``wanted`` picks among the views that are not needed to list VMAs; see ``gather_views``. Raises
    :class:`VmaForensicsError` when there is nothing to read.
    """
    from vmaforensics.views.gather import gather_views

    progress(0, "Opening the image")
    subject = subject_of_layer(context, layer_name)
    image = subject.image
    progress(10, f"Looking for the kernel in a {image.format} image")
    kernel = subject.kernel
    progress(60, f"Reading the memory maps of Linux {printable(kernel.identity.release)}")
    views = gather_views(kernel, image.cpus, wanted)
    progress(100, "Memory maps read")
    warn(image, kernel, views)
    return Session(image=image, kernel=kernel, views=views)


def warn(image: Image, kernel: Kernel, views: Views) -> None:
    """Log what could not be read or believed."""
    for text in (*image.problems, *kernel.identity.problems, *image.memory.problems(), *summary(views)):
        log.warning("%s", printable(text))


def grid(rows: Iterator[Row]) -> Iterator[tuple[int, Row]]:
    """``rows`` of the top level for a TreeGrid; see :func:`tree`."""
    return tree((0, row) for row in rows)


def tree(rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """(level, row) for a TreeGrid. An error ends the rows with one line in the log: one that left a generator
    would take those before it along, in the renderers that print at the end."""
    with logged():
        yield from rows


@contextmanager
def logged() -> Iterator[None]:
    """Errors become one line in the log, and end what is done inside.

    Rows are many and in no cycles: looking for cycles among them took a fifth of the time of 128,000.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    except VmaForensicsError as error:
        log.error("%s", printable(str(error)))
    except Exception as error:
        log.error("this is a bug in vmaforensics: %s", printable(f"{type(error).__name__}: {error}"))
        log.debug("traceback", exc_info=True)
    finally:
        if collects:
            gc.enable()
