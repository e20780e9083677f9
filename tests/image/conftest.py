"""Files for the readers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

import pytest

from vmaforensics.image.image import Image
from vmaforensics.image.open import open_image

if TYPE_CHECKING:
    from pathlib import Path

Opener = Callable[..., Image]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Writes bytes to a new file (those before may still be mapped), each part to its own, and opens the image."""
    number = count()

    def opener(*parts: bytes) -> Image:
        paths = [tmp_path / f"image{next(number)}" for _ in parts]
        for path, data in zip(paths, parts, strict=True):
            path.write_bytes(data)
        return open_image(paths if len(paths) > 1 else paths[0])

    return opener
