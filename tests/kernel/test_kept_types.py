"""Types that took time to look for are looked for once, and an entry that does not fit is as none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kernel.test_dwarf import compiled
from vmaforensics import cache
from vmaforensics.kernel.structures import kept_types
from vmaforensics.kernel.structures.dwarf import Dwarf
from vmaforensics.kernel.symbols.elf_file import ElfFile

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.kernel.structures.layout import Layout

__all__ = ["compiled"]

STRUCTS = ("outer", "pid", "atomic_t", "list", "forward", "no_such")


@pytest.fixture(autouse=True)
def kept_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the entries; everything is kept at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(cache.OFF, raising=False)
    monkeypatch.setattr(kept_types, "_PATIENCE", 0)
    return tmp_path / "vmaforensics" / "found"


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were looked for in DWARF."""
    names: list[str] = []
    for method in ("_find_struct", "constant"):
        whole = getattr(Dwarf, method)

        def heard(self: Dwarf, name: str, whole: object = whole) -> object:
            names.append(name)
            return whole(self, name)  # type: ignore[operator]

        monkeypatch.setattr(Dwarf, method, heard)
    return names


def all_of(file: ElfFile) -> dict[str, Layout | int | None]:
    """Every structure of the file, those without a name that they hold too, and some constants."""
    found: dict[str, Layout | int | None] = {}
    todo = list(STRUCTS)
    while todo:
        name = todo.pop(0)
        layout = found[name] = file.struct(name)
        inner = [field.struct for field in layout.fields.values() if field.struct] if layout else []
        todo += [name for name in inner if name not in found]
    return found | {name: file.constant(name) for name in ("STOPPED", "NEGATIVE", "ABSENT")}


def test_a_second_run_looks_for_nothing_and_says_the_same(compiled: Path, looked: list[str]) -> None:
    with cache.without():
        plain = all_of(ElfFile(compiled))
    first = all_of(ElfFile(compiled))
    assert "outer" in looked
    looked.clear()
    second = ElfFile(compiled)
    assert all_of(second) == first == plain
    assert looked == []
    assert len(second) > 0
    assert plain["NEGATIVE"] == -3
    assert plain["no_such"] is None


def test_what_an_earlier_run_did_not_ask_for_is_looked_for(compiled: Path, looked: list[str]) -> None:
    first = ElfFile(compiled).struct("outer")
    assert first is not None
    inner = first.fields["named"].struct or ""
    assert inner.startswith("(anonymous")
    looked.clear()
    layout = ElfFile(compiled).struct(inner)
    assert layout is not None
    assert layout.fields.keys() == {"inside"}
    assert looked == [inner]


def test_whoever_waits_hears_of_it_the_first_time(compiled: Path) -> None:
    stages: list[str] = []
    ElfFile(compiled, lambda stage, *_: stages.append(stage)).struct("outer")
    assert stages == ["types"]
    stages.clear()
    ElfFile(compiled, lambda stage, *_: stages.append(stage)).struct("outer")
    assert stages == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"structs": []},
        {"structs": {"outer": [8]}},
        {"structs": {"outer": [8, {"a": [0, 4]}]}},
        {"structs": {"outer": [8, {"a": [0, 4, None, 1, 0, 0, None, False]}]}},
        {"structs": {"outer": [8, {"a": [-1, 4, None, False, 0, 0, None, False]}]}},
        {"structs": {"outer": [8, {"a": [0, 1 << 60, None, False, 0, 0, None, False]}]}},
        {"structs": {"outer": ["8", {}]}},
        {"constants": {"STOPPED": "7"}},
        {"constants": {"STOPPED": 1 << 70}},
        {"count": -1},
        {"count": None},
    ],
)
def test_an_entry_that_no_run_has_written_is_as_none(
    compiled: Path, kept_in: Path, looked: list[str], wrong: dict[str, object]
) -> None:
    right = ElfFile(compiled).struct("outer")
    (entry,) = kept_in.iterdir()
    content = json.loads(entry.read_bytes())["content"]
    cache.keep("types", entry.stem.removeprefix("types-"), content | wrong)
    looked.clear()
    assert ElfFile(compiled).struct("outer") == right
    assert looked == ["outer"]


def test_another_file_has_another_entry(compiled: Path, tmp_path: Path, kept_in: Path) -> None:
    ElfFile(compiled).struct("outer")
    other = tmp_path / "other"
    raw = bytearray(compiled.read_bytes())
    at = raw.index(b"inside")
    raw[at : at + 6] = b"beside"
    other.write_bytes(raw)
    layout = ElfFile(other).struct("outer")
    assert layout is not None
    inner = ElfFile(other).struct(layout.fields["named"].struct or "")
    assert inner is not None
    assert "beside" in inner.fields
    assert len(list(kept_in.iterdir())) == 2
