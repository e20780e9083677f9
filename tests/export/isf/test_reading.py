"""Symbol files in place of what an image lacks; files that are damaged, hostile or another kernel's."""

from __future__ import annotations

import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import ROOT, SAMPLES, TAMPERED, Edit, with_memory

from vmaforensics.analysis import Analysis, analyse_image
from vmaforensics.arch.known import DEFAULT
from vmaforensics.errors import KernelNotFoundError, SymbolFileError
from vmaforensics.export.isf.document import isf_document, write_isf
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.symbols.isf import Isf
from vmaforensics.kernel.symbols.vmcoreinfo import scan
from vmaforensics.report.document.build import build_document

if TYPE_CHECKING:
    from support import Sample

# What dwarf2json made of the debugging information of the 6.1 samples' kernel (layouts.py says where from), without
# the symbols of functions, which no test needs.
DWARF = Path(__file__).parent / "dwarf-6.1.json.xz"


def same_kernel(samples: list[Sample]) -> list[Sample]:
    """Those of the kernel that DWARF describes."""
    return [sample for sample in samples if sample.name in ("debian-6.1", "tampered-6.1")]


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Symbol files that were made so far, by sample."""
    return {}


@pytest.fixture
def own_file(either_sample: Sample, ours: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our symbol file of a sample's kernel."""
    if either_sample.name not in ours:
        path = tmp_path_factory.mktemp("isf") / "kernel.json"
        with path.open("wb") as stream:
            write_isf(isf_document(either_sample.analysis.kernel), stream, ".json")
        ours[either_sample.name] = path
    return ours[either_sample.name]


def spoil_btf(edit: Edit) -> None:
    """As if it were another thing."""
    start, stop = (edit.clean.kernel.symbols.get(name) for name in ("__start_BTF", "__stop_BTF"))
    assert start is not None
    assert stop is not None
    edit.write(start, b"\0" * (stop - start))


def spoil_kallsyms(edit: Edit) -> None:
    symbols = edit.clean.kernel.symbols
    at = symbols.place + symbols.tables.token_table  # type: ignore[attr-defined]
    edit.write(at, b"\xff" * (4096 - at % 4096))


def spoil_vmcoreinfo(edit: Edit) -> None:
    for found in list(scan(edit.clean.image.memory)):
        edit.overlay.drop(int(found.source.split()[-1], 16) // 4096)


def analysed(edit: Edit, symbols: Path, **changes: Any) -> Analysis:  # noqa: ANN401
    return analyse_image(with_memory(edit.clean.image, edit.overlay, symbols=symbols, **changes))


def require_equal(clean: Analysis, other: Analysis) -> None:
    """The report says the same of processes, findings and maps."""
    before, after = build_document(clean), build_document(other)
    assert after.processes == before.processes
    assert after.findings == before.findings
    assert after.maps == before.maps


@pytest.mark.parametrize("sample", same_kernel([*SAMPLES, *TAMPERED]), ids=lambda one: one.name)
def test_debugging_information_does_what_btf_does(sample: Sample) -> None:
    edit = Edit(sample.analysis)
    spoil_btf(edit)
    with pytest.raises(KernelNotFoundError, match="--symbols"):
        find_kernel(with_memory(sample.analysis.image, edit.overlay))
    found = analysed(edit, DWARF)
    assert found.kernel.identity.types_source == "symbol file dwarf-6.1.json.xz, 10318 types"
    assert any("BTF" in problem for problem in found.kernel.identity.problems)
    assert bool(found.findings) == bool(sample.analysis.findings)
    require_equal(sample.analysis, found)


def test_neither_types_nor_symbols_in_the_image(either_sample: Sample, own_file: Path) -> None:
    edit = Edit(either_sample.analysis)
    spoil_btf(edit)
    spoil_kallsyms(edit)
    found = analysed(edit, own_file)
    identity = found.kernel.identity
    assert identity.symbols_source.startswith("symbol file kernel.json, ")
    assert identity.kaslr_offset == either_sample.analysis.kernel.identity.kaslr_offset
    require_equal(either_sample.analysis, found)


def test_a_kernel_is_located_by_its_banner_alone(either_sample: Sample, own_file: Path) -> None:
    edit = Edit(either_sample.analysis)
    for spoil in (spoil_btf, spoil_kallsyms, spoil_vmcoreinfo):
        spoil(edit)
    found = analysed(edit, own_file, vmcoreinfo=None)
    clean, identity = either_sample.analysis.kernel.identity, found.kernel.identity
    assert (identity.phys_base, identity.kaslr_offset) == (clean.phys_base, clean.kaslr_offset)
    assert (identity.vmcoreinfo_source, identity.release) == (None, clean.release)
    require_equal(either_sample.analysis, found)


def test_what_the_image_has_itself_is_preferred(either_sample: Sample, own_file: Path) -> None:
    kernel = find_kernel(either_sample.analysis.image, symbols=own_file)
    assert kernel.identity == either_sample.analysis.kernel.identity


def test_layouts_are_those_of_btf(either_sample: Sample, own_file: Path) -> None:
    """Of every type the analysis has asked for."""
    types, isf = either_sample.analysis.kernel.types, Isf(own_file)
    asked = [name for name in types._layouts if not name.startswith("(")]  # type: ignore[attr-defined]
    assert len(asked) > 30
    for name in asked:
        expected, found = types.struct(name), isf.struct(name)
        assert (expected is None) == (found is None), name
        if expected is None or found is None:
            continue
        assert (found.size, set(found.fields)) == (expected.size, set(expected.fields)), name
        for label, field in expected.fields.items():
            other = found.fields[label]
            same = ["offset", "size", "count", "bit_offset", "bit_size", "pointer"]
            # An old BTF does not tell the sign of a char or an enum; the file puts it right.
            if field.size > 1 and (name, label) != ("perf_event", "state"):
                same.append("signed")
            if field.struct is None or not field.struct.startswith("("):
                assert [getattr(other, one) for one in same] == [getattr(field, one) for one in same], (name, label)
    for name in ("PG_head", "PG_locked", "MIGRATE_PCPTYPES", "no_such_constant"):
        assert isf.constant(name) == types.constant(name)


def test_the_file_of_another_kernel_is_refused(list_sample: Sample) -> None:
    with pytest.raises(SymbolFileError, match=r"is of another kernel: it says 'Linux version 6\..*the image holds"):
        find_kernel(list_sample.analysis.image, symbols=DWARF)
    command = [sys.executable, "-m", "vmaforensics", "maps", "--symbols", DWARF, list_sample.image_path]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (12, "", 1)


def test_where_the_banner_is_not_in_the_dump_the_release_decides(either_sample: Sample, own_file: Path) -> None:
    edit = Edit(either_sample.analysis)
    banner = either_sample.analysis.kernel.symbols.get("linux_banner")
    assert banner is not None
    edit.drop(banner)
    image = with_memory(either_sample.analysis.image, edit.overlay)
    problems = find_kernel(image, symbols=own_file).identity.problems
    assert any("could not be checked" in problem for problem in problems)
    wrong = image.vmcoreinfo.replace(b"OSRELEASE=", b"OSRELEASE=9") if image.vmcoreinfo else None
    with pytest.raises(SymbolFileError, match="is of another kernel"):
        find_kernel(with_memory(image, edit.overlay, vmcoreinfo=wrong), symbols=own_file)


SYMBOLS = {"linux_banner": {"address": 1, "constant_data": "TGludXggdmVyc2lvbiA5"}}
WHOLE = {"metadata": {}, "base_types": {}, "user_types": {}, "enums": {}, "symbols": SYMBOLS}


def member(**described: object) -> dict[str, object]:
    return {"kind": "struct", "size": 8, "fields": {"x": described}}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not a symbol file"),
        (b"\x7fELF" + bytes(100), "is not a symbol file"),
        (b"[" * 100_000, "is not a symbol file"),
        (b"{}", "missing required field"),
        (json.dumps(WHOLE | {"symbols": {}}).encode(), "names no Linux kernel"),
        (json.dumps(WHOLE | {"symbols": {"linux_banner": {"address": 1, "constant_data": "\xff"}}}).encode(), "base64"),
        (json.dumps(WHOLE | {"symbols": {"a": {"address": "here"}}}).encode(), "is not a symbol file"),
        (json.dumps(WHOLE | {"enums": {"a": {"size": 99, "base": "int", "constants": {}}}}).encode(), "<= 8"),
        (b"\xfd7zXZ\0" + bytes(50), "cannot be read"),
        (gzip.compress(b"{}", mtime=0)[:-6], "cannot be read"),
        (lzma.compress(json.dumps(WHOLE).encode())[:-20], "cannot be read"),
        (b"BZh9 nothing", "cannot be read"),
    ],
)
def test_what_is_no_symbol_file_is_said_in_one_sentence(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "kernel.json"
    path.write_bytes(content)
    with pytest.raises(SymbolFileError, match=why) as caught:
        Isf(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "described",
    [
        {"kind": "struct", "size": -1, "fields": {}},
        {"kind": "struct", "size": 1 << 60, "fields": {}},
        {"kind": "struct", "size": 8, "fields": []},
        member(type={"kind": "base", "name": "int"}, offset=-8),
        member(type={"kind": "array", "count": 1 << 40, "subtype": {"kind": "base", "name": "int"}}, offset=0),
        member(type="int", offset=0),
        member(offset=0),
    ],
)
def test_types_that_cannot_be_believed_are_refused(described: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "kernel.json"
    path.write_text(json.dumps(WHOLE | {"user_types": {"task_struct": described}}))
    with pytest.raises(SymbolFileError, match="task_struct"):
        Isf(path).struct("task_struct")


def test_types_that_hold_themselves_come_to_an_end(tmp_path: Path) -> None:
    inner = {"kind": "struct", "name": "a"}
    fields = {"unnamed_1": {"type": inner, "offset": 1, "anonymous": True}, "x": {"type": inner, "offset": 0}}
    deep: dict[str, object] = {"kind": "base", "name": "int"}
    for _ in range(50):
        deep = {"kind": "array", "count": 1 << 24, "subtype": deep}
    fields["deep"] = {"type": deep, "offset": 0}
    path = tmp_path / "kernel.json"
    path.write_text(json.dumps(WHOLE | {"user_types": {"a": {"kind": "struct", "size": 8, "fields": fields}}}))
    layout = Isf(path).struct("a")
    assert layout is not None
    assert set(layout.fields) == {"x", "deep"}


def test_addresses_beyond_64_bits_are_no_symbols(tmp_path: Path) -> None:
    path = tmp_path / "kernel.json"
    addresses = {"high": 1 << 70, "low": -5, "none": 0, "ok": 2**64 - 4096}
    wild = {name: {"address": address} for name, address in addresses.items()}
    path.write_text(json.dumps(WHOLE | {"symbols": SYMBOLS | wild}))
    symbols = Isf(path).symbols(1024, DEFAULT.image_start)
    assert symbols.get("ok") == 2**64 - 3072
    assert [symbols.get(name) for name in ("high", "low", "none")] == [None] * 3
    assert symbols.find("high") == []
    assert symbols.name_of(2**64 - 3072) == "ok"
    assert symbols.name_of(7) is None


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmaforensics.kernel.symbols.unpacked._LIMIT", 1 << 16)
    path = tmp_path / "kernel.json.xz"
    path.write_bytes(lzma.compress(b" " * (1 << 20), preset=0))
    with pytest.raises(SymbolFileError, match="when unpacked"):
        Isf(path)


def test_the_bundled_file_is_a_file_of_dwarf2json() -> None:
    with lzma.open(DWARF) as stream:
        assert json.load(stream)["metadata"]["producer"]["name"] == "dwarf2json"
    assert ROOT in DWARF.parents
    assert np.uint64(Isf(DWARF).address("init_task") or 0) > np.uint64(0xFFFFFFFF80000000)
