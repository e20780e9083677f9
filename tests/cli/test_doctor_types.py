"""``doctor --types``: a BTF file alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kernel.build import BtfBuilder

from vmaforensics.cli.main import main
from vmaforensics.errors import ExitCode
from vmaforensics.kernel.structures.btf import Btf

if TYPE_CHECKING:
    from pathlib import Path

    from support import Sample


def test_what_is_no_kernel_lacks_what_a_report_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    types = BtfBuilder()
    types.composite("task_struct", 8, [])
    path = tmp_path / "vmlinux.btf"
    path.write_bytes(types.build())
    assert main(["doctor", "--types", str(path)]) == ExitCode.SYMBOLS_MISSING
    told = capsys.readouterr()
    assert "lacks     view VMA: struct vm_area_struct" in told.out
    assert "needs the views task list" in told.err


def test_types_of_a_module_alone_and_a_file_without_types_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    for content, why in (
        (BtfBuilder().build(), "it is not that of a whole kernel"),
        (b"ffffffff81000000 T _stext\n", "has symbols and no types"),
    ):
        path.write_bytes(content)
        assert main(["doctor", "--types", str(path)]) == ExitCode.SYMBOLS_MISSING
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF" + bytes(100), b"\x9f\xeb\x01\x00", b"text"])
def test_a_file_without_btf_is_refused(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert main(["doctor", "--types", str(path)]) not in (0, ExitCode.INTERNAL)
    assert "BTF" in (told := capsys.readouterr().err) or "ELF" in told


@pytest.mark.image
def test_the_btf_of_a_kernel_alone(maple_sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vmlinux.btf"
    types = maple_sample.analysis.kernel.types
    assert isinstance(types, Btf)
    path.write_bytes(types.blob)
    assert main(["doctor", "--types", str(path)]) == 0
    told = capsys.readouterr().out
    assert "ok        view maple tree" in told
    assert "lacks     view vm_next list: mm_struct.mmap, vm_area_struct.vm_next" in told
