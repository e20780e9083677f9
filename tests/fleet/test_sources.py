"""Which images a fleet has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmaforensics.errors import ImageUnreadableError, UsageError
from vmaforensics.fleet.sources import find_sources, local_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name, content in (("a.lime", b"EMiL"), ("sub/vmcore", b"KDUMP   "), ("README", b"text"), ("sub/b.raw", b"\0")):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def _names(folder: Path, *words: str) -> list[str]:
    found = find_sources([str(folder / word) for word in words]).sources
    return [source.location.removeprefix(f"{folder}/") for source in found]


def test_a_folder_gives_what_begins_or_is_called_as_an_image(folder: Path) -> None:
    found = find_sources([str(folder)])
    assert [source.location for source in found.sources] == [
        f"{folder}/{name}" for name in ("a.lime", "sub/b.raw", "sub/vmcore")
    ]
    assert found.passed_over == 1


def test_what_is_named_is_taken_whatever_it_is(folder: Path) -> None:
    assert _names(folder, "README", "missing") == ["README", "missing"]


def test_patterns_and_repeats(folder: Path) -> None:
    assert _names(folder, "a.lime", "*.lime", "**/*.raw") == ["a.lime", "sub/b.raw"]
    with pytest.raises(UsageError, match="no file matches"):
        find_sources([str(folder / "*.dmp")])


def test_a_list_gives_roles(folder: Path) -> None:
    listed = folder / "list"
    listed.write_text(f"# machines\n{folder}/a.lime\tweb\n\n{folder}/sub/vmcore\n", encoding="utf-8")
    found = find_sources([], [listed], "other").sources
    assert [source.role for source in found] == ["web", "other"]
    with pytest.raises(ImageUnreadableError, match="cannot read the list"):
        find_sources([], [folder / "nowhere"])


def test_a_url_is_fetched_and_removed_again(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    (source,) = find_sources([f"file://{folder}/*.lime"]).sources
    assert (source.size, source.is_url) == (4, True)
    with local_file(source, tmp_path) as path:
        assert path.read_bytes() == b"EMiL"
        assert path != folder / "a.lime"
    assert not path.exists()
    with pytest.raises(UsageError, match="fsspec"):
        find_sources(["nosuch://bucket/image"])


def test_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="none of what was given"):
        find_sources([])
