"""One memory in every container: the report is the same except for where the facts come from."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import NO_SAMPLE, ROOT, SAMPLES

from vmaforensics.cli.main import main
from vmaforensics.image.open import open_image

from .build import avml, flatten, split

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.image import Image

FILTERED_BY_MAKEDUMPFILE = ROOT / "build/images/debian-6.1-crash.d1.kdump"


@pytest.fixture(scope="module")
def sample() -> Path:
    if not SAMPLES:
        pytest.skip(NO_SAMPLE)
    path = SAMPLES[0].image_path
    if not path.read_bytes().startswith(b"KDUMP"):
        pytest.skip("no kdump among the samples")
    return path


def report(capsysbinary: pytest.CaptureFixture[bytes], *args: str) -> dict[str, object]:
    assert main(["report", *args, "--format", "json"]) == 0
    document: dict[str, object] = json.loads(capsysbinary.readouterr().out)
    return document


def without_origin(document: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in document.items() if key != "provenance"}


def test_a_split_dump_gives_the_report_of_the_whole(
    sample: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    paths = [tmp_path / f"part{number}" for number in range(3)]
    for path, data in zip(paths, split(sample.read_bytes(), [0x2000, 0x8000]), strict=True):
        path.write_bytes(data)
    whole = report(capsysbinary, str(sample))
    parts = report(capsysbinary, *map(str, reversed(paths)), "--sha256")
    assert without_origin(parts) == without_origin(whole)
    file = parts["provenance"]["file"]  # type: ignore[index]
    assert file["path"] == str(paths[0])
    assert file["sha256"] == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    for number in (2, 3):
        assert file["details"][f"part {number}"] == str(paths[number - 1])
        assert file["details"][f"part {number} sha256"] == hashlib.sha256(paths[number - 1].read_bytes()).hexdigest()
    assert file["size"] == sum(path.stat().st_size for path in paths)


def test_a_flattened_dump_gives_the_report_of_the_file(
    sample: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "flat"
    path.write_bytes(flatten(sample.read_bytes(), 16384))
    assert without_origin(report(capsysbinary, str(path))) == without_origin(report(capsysbinary, str(sample)))


def test_an_avml_image_gives_the_same_maps(
    sample: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "image.avml"
    path.write_bytes(avml((pa, piece.tobytes()) for pa, piece in open_image(sample).memory.chunks()))
    require_same_pages(open_image(path), open_image(sample))
    outputs = []
    for image in (path, sample):
        assert main(["maps", str(image)]) == 0
        outputs.append(capsysbinary.readouterr().out)
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"==>") > 3


def require_same_pages(image: Image, truth: Image) -> None:
    """Every page that ``truth`` holds is in ``image``, byte for byte, or zero and left out."""
    count = 0
    for start, end in truth.memory.ranges.tolist():
        for low in range(start, end, 1 << 24):
            pas = np.arange(low, min(low + (1 << 24), end), 4096, dtype=np.uint64)
            expected, held = truth.memory.gather(pas, 4096)
            data, ok = image.memory.gather(pas, 4096)
            np.testing.assert_array_equal(data, expected)
            assert not expected[held & ~ok].any()
            count += int(ok.sum())
    assert count > 1000


def test_parts_of_a_dump_are_named_by_info_and_kept_by_excerpt(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"part{number}" for number in range(2)]
    for path, data in zip(paths, split(sample.read_bytes(), [0x8000]), strict=True):
        path.write_bytes(data)
    assert main(["info", *map(str, paths)]) == 0
    text = capsys.readouterr().out
    assert all(f"file            {path}" in text for path in paths)
    assert "missing         nothing" in text
    before = paths[1].read_bytes()
    assert main(["excerpt", *map(str, paths), "-o", str(paths[1]), "--force"]) == 14
    assert "is what the command reads" in capsys.readouterr().err
    assert paths[1].read_bytes() == before
    assert main(["info", str(paths[0])]) in (0, 12)
    assert "this is one part of a split dump, with the page frames 0x0 to 0x8000" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("makedumpfile") is None, reason="makedumpfile is not installed")
@pytest.mark.skipif(not FILTERED_BY_MAKEDUMPFILE.exists(), reason="needs a dump that the recipe has made")
def test_what_makedumpfile_flattens_and_splits_is_the_dump(tmp_path: Path) -> None:
    """The dump goes through makedumpfile's own writer, in the two forms a reader may get it."""
    truth = open_image(FILTERED_BY_MAKEDUMPFILE)
    stream = tmp_path / "flat"
    with stream.open("wb") as out:
        command: list[str | Path] = ["makedumpfile", "-F", "-l", "-d", "1", FILTERED_BY_MAKEDUMPFILE]
        subprocess.run(command, stdout=out, stderr=subprocess.DEVNULL, check=True)
    parts = [tmp_path / f"part{number}" for number in range(3)]
    command = ["makedumpfile", "--split", "--splitblock-size", "1024", "-l", "-d", "1", FILTERED_BY_MAKEDUMPFILE]
    subprocess.run([*command, *parts], check=True, capture_output=True)
    for image in (open_image(stream), open_image(parts[::-1])):
        assert image.problems == ()
        np.testing.assert_array_equal(image.memory.ranges, truth.memory.ranges)
        np.testing.assert_array_equal(image.memory.frame_counts(), truth.memory.frame_counts())
        require_same_pages(image, truth)
