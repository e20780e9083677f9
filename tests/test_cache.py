"""What is kept for later runs: whole or not at all, for this user alone, within bounds, and believed by nobody."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from vmaforensics import __version__, cache

if TYPE_CHECKING:
    from pathlib import Path

KEY = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def kept_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the entries, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(cache.OFF, raising=False)
    return tmp_path / "vmaforensics" / "found"


def test_what_was_kept_is_loaded_by_its_kind_and_key(kept_in: Path) -> None:
    cache.keep("kernel", KEY, {"a": 1})
    assert cache.load("kernel", KEY) == {"a": 1}
    assert cache.load("types", KEY) is None
    assert cache.load("kernel", KEY[::-1]) is None
    assert [path.name for path in kept_in.iterdir()] == [f"kernel-{KEY}.json"]
    assert cache.held() == (1, (kept_in / f"kernel-{KEY}.json").stat().st_size)


def test_folder_and_entries_are_for_this_user_alone(kept_in: Path) -> None:
    cache.keep("kernel", KEY, {})
    assert stat.S_IMODE(kept_in.stat().st_mode) == 0o700
    assert stat.S_IMODE((kept_in / f"kernel-{KEY}.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("where", ["folder", "entry"])
def test_what_others_can_write_is_not_read(kept_in: Path, where: str) -> None:
    cache.keep("kernel", KEY, {"a": 1})
    (kept_in if where == "folder" else kept_in / f"kernel-{KEY}.json").chmod(0o777)
    assert cache.load("kernel", KEY) is None


def test_a_link_or_a_pipe_in_the_place_of_an_entry_is_not_followed(kept_in: Path, tmp_path: Path) -> None:
    cache.keep("kernel", KEY, {"a": 1})
    entry = kept_in / f"kernel-{KEY}.json"
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    assert cache.load("kernel", KEY) is None
    entry.unlink()
    os.mkfifo(entry, 0o600)
    assert cache.load("kernel", KEY) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw.replace(b'"a":1', b'"a":2'),
        lambda raw: raw.replace(b"made by", b"made of"),
        lambda _: b"",
        lambda _: b"\xff\xfe",
        lambda _: b"[" * 100_000,
        lambda _: b'{"content": ' + b"9" * 10_000 + b"}",
        lambda _: json.dumps({"made by": __version__, "sha256": cache._checksum([1]), "content": [1]}).encode(),
        lambda raw: raw.replace(__version__.encode(), b"0.0.0"),
        lambda raw: raw + b" " * cache.LARGEST,
    ],
)
def test_a_damaged_entry_is_as_none(kept_in: Path, damage: object) -> None:
    cache.keep("kernel", KEY, {"a": 1})
    entry = kept_in / f"kernel-{KEY}.json"
    entry.write_bytes(damage(entry.read_bytes()))  # type: ignore[operator]
    assert cache.load("kernel", KEY) is None


def test_where_the_folder_cannot_be_made_nothing_is_kept_and_nothing_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.keep("kernel", KEY, {"a": 1})
    assert cache.load("kernel", KEY) is None
    assert capsys.readouterr() == ("", "")


def test_switched_off_nothing_is_read_or_kept(kept_in: Path) -> None:
    cache.keep("kernel", KEY, {"a": 1})
    with cache.without():
        assert cache.load("kernel", KEY) is None
        cache.keep("kernel", KEY[::-1], {})
    assert cache.load("kernel", KEY) == {"a": 1}
    assert len(list(kept_in.iterdir())) == 1


def test_what_was_not_used_for_longest_makes_room(kept_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"{number:064x}" for number in range(4)]
    for age, key in enumerate(keys):
        cache.keep("kernel", key, {})
        os.utime(kept_in / f"kernel-{key}.json", (age + 1, age + 1))
    assert cache.load("kernel", keys[0]) == {}  # used just now
    (kept_in / "notes.txt").write_text("not ours to remove")
    monkeypatch.setattr(cache, "MOST_FILES", 3)
    cache.keep("kernel", KEY, {})
    left = sorted(path.name for path in kept_in.iterdir())
    assert left == sorted([f"kernel-{key}.json" for key in (keys[0], keys[3], KEY)] + ["notes.txt"])


def test_bytes_are_bounded_too(kept_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 1000)
    for number in range(20):
        cache.keep("kernel", f"{number:064x}", {"a": "x" * 100})
    assert 0 < cache.held().size <= 1000


def test_one_that_is_too_large_is_not_kept(kept_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LARGEST", 1000)
    cache.keep("kernel", KEY, {"a": "x" * 1000})
    assert not kept_in.exists()
