"""Kinds of symbol files, told by their first bytes; what a kernel's kallsyms lacks."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.arch.known import DEFAULT
from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.symbols import kallsyms
from vmaforensics.kernel.symbols.by_name import plain_name
from vmaforensics.kernel.symbols.given import open_symbol_files
from vmaforensics.kernel.symbols.kallsyms import Kallsyms

if TYPE_CHECKING:
    from pathlib import Path

    from support import Sample

MAP = b"0000000000001000 A runq\nffffffff81000000 T _text\nffffffff81000000 T _stext\nffffffff82000010 D init_task\n"


@pytest.mark.parametrize("packed", [MAP, gzip.compress(MAP, mtime=0)], ids=["plain", "gzip"])
def test_a_map_gives_symbols_moved_as_the_kernel_was(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_bytes(packed)
    given = open_symbol_files(path)
    assert given.types is None
    assert given.symbols is not None
    symbols = given.symbols.symbols(0x200000, DEFAULT.image_start)
    assert symbols.get("init_task") == 0xFFFFFFFF82200010
    assert symbols.get("runq") == 0x1000


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"0000000000000000 T _stext\n", "without privileges"),
        (b"ffffffffffffffff B The real System.map is in the linux-image-6.1-dbg package\n", "-dbg package"),
        (b"\x9f\xeb\x01\x00" + bytes(60), "BTF header is damaged"),
        (b"\x28\xb5\x2f\xfd" + bytes(60), "zstd -d"),
        (b"MZ" + bytes(60), "vmlinuz"),
        (b"hello", "expected an ISF"),
    ],
)
def test_what_is_none_of_them_is_said_in_one_sentence(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SymbolFileError, match=why) as caught:
        open_symbol_files(path)
    assert str(path) in str(caught.value)


def test_names_are_without_what_thinlto_appends() -> None:
    assert plain_name("vm_stat.llvm.1234567890") == "vm_stat"
    blob, starts = kallsyms._plain(b"\0tdo_it.llvm.77\0Tother\0", np.array([1, 16], np.int64))
    symbols = Kallsyms(np.array([16, 32], np.uint64), blob, starts, 0)
    assert (symbols.get("do_it"), symbols.get("other"), symbols.name_of(16)) == (16, 32, "do_it")


def test_a_table_of_functions_alone_costs_no_process(either_sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    real = kallsyms.decode

    def functions(*given: object, **more: object) -> Kallsyms:
        whole = real(*given, **more)  # type: ignore[arg-type]
        keep = np.array([symbol.kind in "tTwW" for symbol in whole.items()])
        names = [f"{symbol.kind}{symbol.name}".encode() + b"\0" for symbol in whole.items() if symbol.kind in "tTwW"]
        starts = np.cumsum([1, *map(len, names)], dtype=np.int64)[: len(names)]
        found = Kallsyms(whole.addresses[keep], b"\0" + b"".join(names), starts, 0)
        found.tables, found.place = whole.tables, whole.place
        return found

    monkeypatch.setattr(kallsyms, "decode", functions)
    kernel = find_kernel(replace(either_sample.analysis.image))
    assert kernel.symbols.get("init_task") == either_sample.analysis.kernel.symbols.get("init_task")
    assert kernel.root == either_sample.analysis.kernel.root
    assert any("no CONFIG_KALLSYMS_ALL" in problem for problem in kernel.identity.problems)
