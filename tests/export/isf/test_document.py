"""The file as a whole: what volatility3's schema asks for, the same bytes each time, refusals."""

from __future__ import annotations

import base64
import gzip
import json
import lzma
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import Edit, with_memory

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.export.isf.document import isf_document
from vmaforensics.kernel.find import find_kernel

if TYPE_CHECKING:
    from support import Sample


_START = 0xFFFFFFFF_80000000


def isf(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmaforensics", "isf", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False)


def test_volatility_accepts_it(document: dict[str, Any]) -> None:
    """Every 40th type and symbol: a whole file takes jsonschema a minute."""
    schemas = pytest.importorskip("volatility3.schemas")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(schemas.__file__).parent / "schema-6.2.0.json").read_bytes())
    some = {
        part: dict(list(content.items())[::40]) if part in ("user_types", "enums", "symbols") else content
        for part, content in document.items()
    }
    some["symbols"]["linux_banner"] = document["symbols"]["linux_banner"]
    jsonschema.validate(some, schema)


def test_every_type_referred_to_is_there(document: dict[str, Any]) -> None:
    """But for structures that the kernel only declares: those are behind pointers."""
    todo = [(field["type"], False) for one in document["user_types"].values() for field in one["fields"].values()] + [
        (one["type"], False) for one in document["symbols"].values()
    ]
    while todo:
        described, behind = todo.pop()
        kind = described["kind"]
        if kind in ("struct", "union"):
            assert behind or described["name"] in document["user_types"], described
        elif kind == "enum":
            assert described["name"] in document["enums"]
        elif kind == "base":
            assert described["name"] in document["base_types"]
        else:
            behind = behind or kind == "pointer"
            todo += [(described[key], behind) for key in ("subtype", "type") if key in described]


def test_the_banner_is_that_in_memory(sample: Sample, document: dict[str, Any]) -> None:
    text = base64.b64decode(document["symbols"]["linux_banner"]["constant_data"])
    assert text.endswith(b"\n\0")
    assert text[:-2].decode() == sample.analysis.kernel.identity.banner


def test_addresses_are_those_before_the_kernel_was_moved(sample: Sample, document: dict[str, Any]) -> None:
    kernel = sample.analysis.kernel
    moved = kernel.identity.kaslr_offset
    assert moved
    symbols = document["symbols"]
    assert symbols["_text"]["address"] == 0xFFFFFFFF_81000000  # CONFIG_PHYSICAL_START
    init_task = kernel.symbols.get("init_task")
    assert init_task is not None
    assert symbols["init_task"]["address"] == init_task - moved
    per_cpu = kernel.symbols.get("runqueues")
    assert per_cpu is not None
    # Up to 6.14 an offset into every CPU's area, which KASLR does not move.
    assert symbols["runqueues"]["address"] == (per_cpu if per_cpu < _START else per_cpu - moved)
    assert symbols["runqueues"]["type"] == {"kind": "struct", "name": "rq"}


def test_the_tables_of_kallsyms_are_listed(sample: Sample, document: dict[str, Any]) -> None:
    """Up to 6.10 they do not list themselves, and linux.kallsyms needs them. Where they do, both ways agree."""
    kernel, symbols = sample.analysis.kernel, document["symbols"]
    moved = kernel.identity.kaslr_offset
    assert moved is not None
    number = kernel.space.read(symbols["kallsyms_num_syms"]["address"] + moved, 4)
    lost = kernel.symbols.lost  # type: ignore[attr-defined]
    assert int.from_bytes(number, "little") == len(kernel.symbols) + lost
    for name in ("names", "markers", "token_table", "token_index", "offsets"):
        own = kernel.symbols.get(f"kallsyms_{name}")
        address = symbols[f"kallsyms_{name}"]["address"] + moved
        assert own in (None, address), name
    assert kernel.space.read(symbols["kallsyms_token_index"]["address"] + moved, 2) == b"\0\0"


def test_two_runs_and_all_packings_give_the_same(either_sample: Sample, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.json.xz", "b.json.xz", "c.json.gz", "d.json")]
    for path in paths:
        done = isf(either_sample.image_path, "-o", path)
        assert done.returncode == 0, done.stderr
    first, second, zipped, plain = (path.read_bytes() for path in paths)
    assert first == second
    assert lzma.decompress(first) == gzip.decompress(zipped) == plain


def test_it_takes_a_moment(either_sample: Sample) -> None:
    kernel = either_sample.analysis.kernel
    began = time.process_time()
    document = isf_document(kernel)
    assert time.process_time() - began < 3
    assert len(document["user_types"]) > 8000


def test_a_file_that_is_there_and_an_unknown_ending_are_refused(list_sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "kernel.json"
    path.write_bytes(b"mine")
    done = isf(list_sample.image_path, "-o", path)
    assert (done.returncode, path.read_bytes()) == (14, b"mine")
    done = isf(list_sample.image_path, "-o", tmp_path / "kernel.isf")
    assert done.returncode == 2
    assert b"does not end in .json.xz, .json.gz, .json" in done.stderr
    assert not (tmp_path / "kernel.isf").exists()


def test_without_the_symbol_table_there_is_nothing_to_make(either_sample: Sample) -> None:
    edit = Edit(either_sample.analysis)
    tables = either_sample.analysis.kernel.symbols
    for at in (tables.tables.token_table, tables.tables.token_index):  # type: ignore[attr-defined]
        edit.drop(tables.place + at)  # type: ignore[attr-defined]
    image = either_sample.analysis.image
    kernel = find_kernel(with_memory(image, edit.overlay))
    if kernel.identity.symbols_source:
        pytest.skip("the tables lie on other pages too, or were found again by what is left of them")
    with pytest.raises(KernelNotFoundError, match="kallsyms"):
        isf_document(kernel)
