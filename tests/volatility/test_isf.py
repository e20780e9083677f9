"""volatility3's own plugins give on our symbol files the rows they give on those of dwarf2json."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("volatility3")

from vmaforensics.export.isf.document import isf_document, write_isf
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel

from .record import IMAGES, ROOT, digests, fingerprint

RECORD = json.loads((Path(__file__).parent / "stock_rows.json").read_bytes())


@pytest.mark.image
@pytest.mark.parametrize("name", IMAGES)
def test_rows_are_those_on_the_debugging_information(name: str, tmp_path: Path) -> None:
    image, recorded = ROOT / name, RECORD["images"].get(name)
    if not image.exists() or recorded is None or recorded["sha256"] != fingerprint(image):
        pytest.skip(f"{name} is not the image that record.py was run on")
    if version("volatility3") != RECORD["volatility3"]:
        pytest.skip(f"record.py was run with volatility3 {RECORD['volatility3']}")
    if image.suffix == ".raw" and not os.environ.get("VMAFORENSICS_SLOW"):
        pytest.skip("takes minutes; set VMAFORENSICS_SLOW=1")
    path = tmp_path / "kernel.json"
    with path.open("wb") as stream:
        write_isf(isf_document(find_kernel(open_image(image))), stream, ".json")
    assert digests(image, path) == recorded["plugins"]
