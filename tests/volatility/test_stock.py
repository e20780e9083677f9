"""volatility3's own plugins with nothing but our directory on their path; what they say when they cannot run."""

from __future__ import annotations

import base64
import json
import lzma
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("volatility3")

from vmaforensics.export.isf.document import isf_document, write_isf
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel

from .conftest import ROOT, Vol, parse
from .containers import WRITERS, Pages

if TYPE_CHECKING:
    from pathlib import Path

FOUR, FIVE = ROOT / "samples/debian-6.1/image.kdump", ROOT / "samples/debian-6.1-la57/image.kdump"
PSLIST = "linux.pslist.PsList"

pytestmark = pytest.mark.skipif(not FOUR.exists() or not FIVE.exists(), reason="the samples are not there")


def physical(image: Path, symbol: str) -> int:
    """Where a symbol's first byte lies."""
    kernel = find_kernel(open_image(image))
    at = kernel.symbols.get(symbol)
    assert at is not None
    return at - kernel.arch.image_start + kernel.identity.phys_base


def without(image: Path, symbol: str, copy: Path) -> None:
    """A copy of an image, as an ELF core, in which the page that holds ``symbol`` is zeros."""
    pages = Pages(open_image(image))
    pages.bytes[pages.frames == physical(image, symbol) >> 12] = 0
    WRITERS["elf"](pages, copy)


def without_types(image: Path, copy: Path) -> None:
    """The same without its BTF, which lies in one piece."""
    pages = Pages(open_image(image))
    first, last = (physical(image, symbol) >> 12 for symbol in ("__start_BTF", "__stop_BTF"))
    pages.bytes[(pages.frames >= first) & (pages.frames <= last)] = 0
    WRITERS["elf"](pages, copy)


def one_line(stderr: str) -> str:
    """Our line in what vol printed."""
    (line,) = [line for line in stderr.split("\n") if "vmaforensics: " in line]
    return line


@pytest.mark.parametrize("image", [FOUR, FIVE], ids=["4 levels", "5 levels"])
def test_a_saved_configuration_gives_the_same_rows(image: Path, vol: Vol, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    first = parse("json", vol(image, PSLIST, before=("--save-config", str(saved))).stdout)
    assert {row["COMM"] for row in first} >= {"sleep"}
    assert parse("json", vol(None, PSLIST, before=("-c", str(saved))).stdout) == first
    layer = json.loads(saved.read_text())["kernel.layer_name.class"]
    assert layer.endswith("LinuxIntel32eLA57" if image is FIVE else "intel.LinuxIntel32e")


def test_without_our_directory_volatility3_makes_nothing_of_the_image(vol: Vol) -> None:
    done = vol(FOUR, PSLIST, plugins=None, code=1)
    assert "Unsatisfied requirement" in done.stdout


def test_a_symbol_file_of_the_users_is_used_where_the_image_has_no_types(vol: Vol, tmp_path: Path) -> None:
    image, symbols = tmp_path / "image.elf", tmp_path / "symbols" / "linux"
    without_types(FOUR, image)
    # Without any: one line that says what was found, and what to do.
    line = one_line(vol(image, PSLIST, code=1).stderr)
    expected = ("an elf image", "kernel banner 'Linux version 6.1", "no type information", "no symbol file for Linux")
    assert [words for words in expected if words not in line] == []

    symbols.mkdir(parents=True)
    with lzma.open(symbols / "kernel.json.xz", "wb") as stream:
        write_isf(isf_document(find_kernel(open_image(FOUR))), stream, ".json")
    given = ("-s", str(symbols.parent))
    assert parse("json", vol(image, PSLIST, before=given).stdout)
    ours = parse("json", vol(image, "linux.vmamaps.VmaMaps", "--pid", "1", before=given).stdout)
    assert ours == parse("json", vol(FOUR, "linux.vmamaps.VmaMaps", "--pid", "1").stdout)


def test_a_symbol_file_of_another_kernel_is_said_not_to_fit(vol: Vol, tmp_path: Path) -> None:
    image, symbols = tmp_path / "image.elf", tmp_path / "symbols" / "linux"
    without_types(FOUR, image)
    symbols.mkdir(parents=True)
    banner = base64.b64encode(b"Linux version 9.9.9 (another kernel)\n\0").decode()
    (symbols / "other.json").write_text(json.dumps({"symbols": {"linux_banner": {"constant_data": banner}}}))
    line = one_line(vol(image, PSLIST, before=("-s", str(symbols.parent)), code=1).stderr)
    assert "1 symbol file of volatility3's, none with this banner" in line


def test_a_missing_page_table_root_is_made_up_for_by_a_process(vol: Vol, tmp_path: Path) -> None:
    image = tmp_path / "image.elf"
    without(FOUR, "init_top_pgt", image)
    assert len(parse("json", vol(image, PSLIST).stdout)) > 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"plain text\n" * 1000, ("text file", "give a memory image")),
        (b"QEVM" + bytes(1 << 20), ("QEMU migration stream", "dump-guest-memory")),
        (bytes(1 << 21), ("read as a raw image", "no kernel banner", "no Linux kernel")),
        (b"KDUMP   " + bytes(8192), ("kdump header cannot be believed", "take the dump again")),
    ],
    ids=["text", "QEMU", "zeros", "broken kdump"],
)
def test_an_image_nobody_understands_is_one_line_of_ours(
    vol: Vol, tmp_path: Path, content: bytes, words: tuple[str, ...]
) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    line = one_line(vol(image, PSLIST, code=1).stderr)
    for word in words:
        assert word in line
