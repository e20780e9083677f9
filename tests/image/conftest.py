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

Opener = Callable[[bytes], Image]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Writes bytes to a new file (those before may still be mapped) and opens it as an image."""
    number = count()

    def opener(data: bytes) -> Image:
        path = tmp_path / f"image{next(number)}"
        path.write_bytes(data)
        return open_image(path)

    return opener
