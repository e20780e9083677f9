# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Images opened once per process: volatility3 makes every layer at least twice."""

from __future__ import annotations

import logging
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from vmaforensics.errors import KernelNotFoundError, VmaForensicsError
from vmaforensics.volatility.layers.parts import parts_of
from vmaforensics.volatility.symbols.known_symbols import fitting_symbol_files

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Kernel

log = logging.getLogger(__name__)


class Subject:
    """An image and, once it is asked for, the kernel in it."""

    def __init__(self, image: Image) -> None:
        self.image = image

    @property
    def kernel(self) -> Kernel:
        """The kernel of the image, as of ``find_kernel``, whose errors it raises, every time it is asked for.

        Where the image lacks symbols or types, a symbol file that the user has given to volatility3 is used.
        """
        found = self._found
        if isinstance(found, VmaForensicsError):
            raise found
        return found

    @property
    def laid_out(self) -> Image:
        """The image as the kernel in it says that it lies, where the file itself does not say it."""
        if self.image.format == "raw":
            _ = self._found
        return self.image

    @cached_property
    def _found(self) -> Kernel | VmaForensicsError:
        from vmaforensics.kernel.find import find_kernel

        try:
            return find_kernel(self.image)
        except KernelNotFoundError as error:
            for path in fitting_symbol_files(self.image):
                try:
                    return find_kernel(self.image, symbols=path)
                except VmaForensicsError as other:
                    log.info("symbol file %s: %s", path, other)
            return error
        except VmaForensicsError as error:
            return error


def opened(path: Path) -> Subject:
    """The image in the file ``path``, or in all parts of the split dump that it belongs to.

    It stays open for the next caller as long as the file has the same size and time of modification. Raises
    the errors of ``open_image``.
    """
    try:
        stat = path.stat()
        key = (stat.st_mtime_ns, stat.st_size)
    except OSError:
        key = (0, 0)  # open_image says what is wrong with it
    return _opened(path, key)


@lru_cache(maxsize=2)
def _opened(path: Path, _: tuple[int, int]) -> Subject:
    from vmaforensics.image.open import open_image

    paths = parts_of(path)
    return Subject(open_image(paths if len(paths) > 1 else path))
