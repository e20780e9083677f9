"""Which images a fleet has."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fsspec
import pytest

from fleet.made import new_dataset
from vmaforensics.errors import ExitCode, ImageUnreadableError, UsageError
from vmaforensics.fleet.dataset import sweep
from vmaforensics.fleet.sources import find_sources, local_file
from vmaforensics.fleet.task import Options, analyse_source


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
    (source,) = find_sources([f"file://{folder}/*.lime"]).sources
    assert (source.size, source.is_url) == (4, True)
    with local_file(source, tmp_path) as path:
        assert path.read_bytes() == b"EMiL"
        assert path != folder / "a.lime"
    assert not path.exists()
    with pytest.raises(UsageError, match="fsspec"):
        find_sources(["nosuch://bucket/image"])


def test_names_that_no_program_expects(tmp_path: Path) -> None:
    names = ["a\nb.raw", "a\x1b[2J.raw", "[a]*.raw", os.fsdecode(b"\xff\xfe.raw"), "x" * 251 + ".raw"]
    for name in names:
        (tmp_path / name).write_bytes(b"\0")
    assert sorted(_names(tmp_path, ".")) == sorted(names)
    assert _names(tmp_path, "[a]*.raw") == ["[a]*.raw"]
    assert len({source.key for source in find_sources([str(tmp_path)]).sources}) == len(names)


def test_what_is_no_file_is_left_out_of_a_folder_and_a_row_where_it_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.raw")
    (tmp_path / "loop.raw").symlink_to(tmp_path / "loop.raw")
    (tmp_path / "gone.raw").symlink_to(tmp_path / "nowhere")
    found = find_sources([str(tmp_path)])
    assert [Path(source.location).name for source in found.sources] == ["gone.raw", "loop.raw"]
    assert found.passed_over == 1
    out = new_dataset(tmp_path / "out")
    for word in ("pipe.raw", "y" * 300, "z/" * 3000, "with\0nul"):
        (source,) = find_sources([str(tmp_path / word)]).sources
        told = analyse_source(source, Options(folder=str(out)))
        assert (told.outcome.status, told.outcome.exit_code) == ("failed", ExitCode.IMAGE_UNREADABLE), word


def test_folders_that_lead_into_each_other_give_each_image_once(folder: Path) -> None:
    (folder / "sub" / "back").symlink_to(folder)
    (folder / "again").symlink_to(folder / "sub")
    assert sorted(_names(folder, ".", "sub", "sub/../sub/*.raw")) == ["a.lime", "sub/b.raw", "sub/vmcore"]


def test_a_pattern_gives_folders_too(folder: Path) -> None:
    assert _names(folder, "s*") == ["sub/b.raw", "sub/vmcore"]


def test_images_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for host in ("web", "db"):
        (tmp_path / host).mkdir()
        (tmp_path / host / "memory.raw").write_bytes(b"\0")
    assert _names(tmp_path, ".") == ["db/memory.raw", "web/memory.raw"]


def test_the_output_inside_of_the_input_is_not_looked_into(folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    (out / "copy.raw").write_bytes(b"\0")
    found = find_sources([str(folder)], output=out).sources
    assert not [source for source in found if "/out/" in source.location]


def test_a_folder_that_may_not_be_read_is_a_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = str(folder / "sub")
    scan = os.scandir

    def scandir(path: str | Path) -> object:
        if str(path) == refused:
            raise PermissionError(errno.EACCES, "Permission denied", refused)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert _names(folder, ".") == ["a.lime", "sub"]


def test_an_image_that_is_written_to_while_it_is_read(tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(b"\0")
    (source,) = find_sources([str(image)]).sources
    with pytest.raises(ImageUnreadableError, match="changed while it was read"), local_file(source, tmp_path) as path:
        path.write_bytes(b"\0\0")
    with pytest.raises(ImageUnreadableError, match="changed while it was read"), local_file(source, tmp_path) as path:
        path.unlink()


def test_images_of_a_store(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/a.lime": b"EMiL", "/bucket/b.lime": b"EMiL"})
    found = find_sources(["memory://bucket/*.lime"]).sources
    assert [source.location for source in found] == ["memory:///bucket/a.lime", "memory:///bucket/b.lime"]
    out = new_dataset(tmp_path / "out")
    told = analyse_source(found[0], Options(folder=str(out)))
    assert told.outcome.exit_code == ExitCode.FORMAT_UNSUPPORTED, told
    store.rm("/bucket/b.lime")
    told = analyse_source(found[1], Options(folder=str(out)))
    assert (told.outcome.exit_code, "cannot fetch" in told.outcome.error) == (ExitCode.IMAGE_UNREADABLE, True)
    assert sorted(path.name for path in out.iterdir()) == ["fleet.json", "reports", "tables"]


def test_what_dead_workers_left_half_written_is_removed(tmp_path: Path) -> None:
    out = new_dataset(tmp_path / "out")
    left = [
        out / ".0123456789abcdef.lime",
        out / "tables" / "vmas" / ".0123456789abcdef.parquet.fedcba9876543210",
        out / "reports" / ".0123456789abcdef.html.fedcba9876543210",
    ]
    for path in (*left, out / ".mine"):
        path.write_bytes(b"")
    sweep(out)
    assert not [path for path in left if path.exists()]
    assert (out / ".mine").exists()


def test_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="none of what was given"):
        find_sources([])
