"""One memory in every container format gives ``vol`` the same rows: ours, and those of its own plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("volatility3")

from vmaforensics.image.open import open_image

from .conftest import ROOT, Vol, parse
from .containers import WRITERS, Pages

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = {4: ROOT / "samples/debian-6.1/image.kdump", 5: ROOT / "samples/debian-6.1-la57/image.kdump"}
OURS, THEIRS = ("linux.vmamaps.VmaMaps", "--pid", "1"), ("linux.pslist.PsList",)

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def expected(vol: Vol) -> dict[tuple[int, str], Rows]:
    """What the bundled samples give."""
    found = {}
    for levels, sample in SAMPLES.items():
        if not sample.exists():
            pytest.skip(f"{sample} is not there")
        for plugin in (OURS, THEIRS):
            found[levels, plugin[0]] = parse("json", vol(sample, *plugin).stdout)
            assert len(found[levels, plugin[0]]) > 5
    return found


@pytest.fixture(scope="module")
def pages() -> dict[int, Pages]:
    return {levels: Pages(open_image(sample)) for levels, sample in SAMPLES.items()}


# Each paging mode and each plugin with several containers. In a raw image what is not in the sample is zeros, which
# are not nothing to pslist.
@pytest.mark.parametrize(
    ("container", "levels", "plugin"),
    [(name, 4 + at % 2, OURS if at % 4 == 0 else THEIRS) for at, name in enumerate(WRITERS)],
    ids=list(WRITERS),
)
def test_rows_are_the_same_in_every_container(
    tmp_path: Path,
    vol: Vol,
    expected: dict[tuple[int, str], Rows],
    pages: dict[int, Pages],
    container: str,
    levels: int,
    plugin: tuple[str, ...],
) -> None:
    image = tmp_path / "image"
    WRITERS[container](pages[levels], image)
    done = vol(image, *plugin)
    assert parse("json", done.stdout) == expected[levels, plugin[0]]
    assert "ERROR" not in done.stderr
