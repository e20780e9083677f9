"""The symbol file of each sample's kernel, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from vmaforensics.export.isf.document import isf_document

if TYPE_CHECKING:
    from support import Sample


@pytest.fixture(scope="session")
def document(sample: Sample) -> dict[str, Any]:
    """As plain dictionaries; not to be changed."""
    return isf_document(sample.analysis.kernel)
