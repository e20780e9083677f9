"""Symbol files kept by build id."""

from __future__ import annotations

import dataclasses
import lzma
import stat
from typing import TYPE_CHECKING

import pytest
from support import Edit, kernel_on

from vmaforensics.errors import OutputError
from vmaforensics.export.isf import cache
from vmaforensics.export.isf.cache import cached_isf
from vmaforensics.kernel.symbols.isf import Isf

if TYPE_CHECKING:
    from pathlib import Path

    from support import Sample


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_file_is_made_once(either_sample: Sample, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = either_sample.analysis.kernel
    path = cached_isf(kernel)
    assert path.parent == home / "vmaforensics" / "isf"
    assert path.name.startswith(f"{kernel.identity.build_id}-")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Isf(path).banner.decode().strip() == kernel.identity.banner
    monkeypatch.setattr(cache, "isf_document", lambda _: pytest.fail("made again"))
    assert cached_isf(kernel) == path
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_file_is_made_again(list_sample: Sample) -> None:
    path = cached_isf(list_sample.analysis.kernel)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:100] + b"\0" + whole[101:]):
        path.write_bytes(damaged)
        assert cached_isf(list_sample.analysis.kernel).read_bytes() == whole
    lzma.decompress(whole)


def test_an_image_cannot_spoil_the_file_of_another_kernel(list_sample: Sample) -> None:
    """The build id is what the image says it is; a kernel with other contents gets another file."""
    clean = list_sample.analysis
    edit = Edit(clean)
    banner = clean.kernel.symbols.get("linux_banner")
    assert banner is not None
    edit.write(banner, b"Linux version 9.9.9")
    other = kernel_on(clean.kernel, edit.overlay)
    assert other.identity.build_id == clean.kernel.identity.build_id
    assert cached_isf(other) != cached_isf(clean.kernel)


def test_a_build_id_is_not_taken_for_a_path(either_sample: Sample, home: Path) -> None:
    kernel = kernel_on(either_sample.analysis.kernel, either_sample.analysis.kernel.memory)
    kernel.identity = dataclasses.replace(kernel.identity, build_id="../../../etc/passwd")
    assert cached_isf(kernel).parent == home / "vmaforensics" / "isf"


def test_a_directory_that_cannot_be_made_is_said(either_sample: Sample, home: Path) -> None:
    (home / "vmaforensics").write_bytes(b"")
    with pytest.raises(OutputError, match="cache directory"):
        cached_isf(either_sample.analysis.kernel)
