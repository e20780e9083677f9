"""Images in archives that tar has made (Python's tarfile, and GNU tar for holes)."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.open import open_image

from .build import Load, elf, lime, page

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
IMAGE = lime([(0x100000, page(1) * 300)])


def archive(path: Path, form: int, **files: bytes) -> Path:
    with tarfile.open(path, "w", format=form) as out:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{name}/" + "long" * 40 if name == "deep" else name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("name", ["mem.lime", "deep"])
def test_the_one_large_file_of_an_archive_is_read_where_it_lies(tmp_path: Path, form: int, name: str) -> None:
    if (form, name) == (tarfile.USTAR_FORMAT, "deep"):
        pytest.skip("no such names in ustar")
    path = archive(tmp_path / "image.tar", form, notes=b"taken by hand", **{name: IMAGE}, log=b"")
    image = open_image(path)
    assert image.format == "lime"
    assert image.details["container"].startswith("tar, file ")
    assert bytes(image.memory.read(0x100000, 8192)) == page(1) * 2


def test_of_several_the_only_one_that_begins_as_an_image_is_read(tmp_path: Path) -> None:
    program = elf([Load(pa=0, data=page(1) * 300)], kind=2)
    path = archive(
        tmp_path / "triage.tar",
        tarfile.GNU_FORMAT,
        symbols=b"ffffffff81000000 T _text\n" * 99_999,
        avml=program,
        mem=IMAGE,
    )
    image = open_image(path)
    assert image.format == "lime"
    assert image.details["container"] == "tar, file mem"


@pytest.mark.parametrize("files", [{"a": IMAGE, "b": IMAGE}, {"notes": b"none"}])
def test_which_of_several_is_not_guessed(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = archive(tmp_path / "image.tar", tarfile.GNU_FORMAT, **files)
    with pytest.raises(UnsupportedFormatError, match=f"with {len(files) if 'a' in files else 0} files .*tar -xf"):
        open_image(path)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_file_whose_holes_are_left_out_is_not_read_as_it_lies(tmp_path: Path, form: str) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar")
    with (tmp_path / "mem.raw").open("wb") as out:
        out.truncate(8 * MIB)
        for at in (0, 6 * MIB):
            out.seek(at)
            out.write(page(1) * 300)
    path = tmp_path / "image.tar"
    command = ["tar", "-S", f"--format={form}", "-cf", str(path), "-C", str(tmp_path), "mem.raw"]
    subprocess.run(command, check=True)
    with pytest.raises(UnsupportedFormatError, match=r"holes of .* are left out"):
        open_image(path)


def test_an_archive_that_is_cut_short_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = archive(tmp_path / "image.tar", tarfile.GNU_FORMAT, mem=IMAGE)
    path.write_bytes(path.read_bytes()[: MIB // 2])
    assert bytes(open_image(path).memory.read(0x100000, 4096)) == page(1)
