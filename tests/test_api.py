"""The package from Python: analysing, loading, tables, what a notebook shows; and the example of the documentation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from support import TAMPERED, Sample

import vmaforensics
from vmaforensics.errors import VmaForensicsError
from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.document import Document, encode

if TYPE_CHECKING:
    from vmaforensics.report.document.findings import Finding

ROOT = Path(__file__).parents[1]
HOSTILE = "</td><script>alert(1)</script>\x1b[2J\u202e&\"'<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def document() -> Document:
    if not TAMPERED:
        pytest.skip("no bundled sample has been edited")
    return vmaforensics.analyse(TAMPERED[0].image_path)


def test_analyse_gives_the_document_of_the_image(document: Document) -> None:
    assert isinstance(document, vmaforensics.Document)
    assert encode(document) == encode(build_document(TAMPERED[0].analysis))
    edit = TAMPERED[0].edit
    assert edit is not None
    worst = document.findings[0]
    assert isinstance(worst, vmaforensics.Finding)
    assert (worst.severity, worst.pid, worst.start, worst.end) == ("high", edit["pid"], edit["start"], edit["end"])


def test_views_and_hash_are_chosen(document: Document) -> None:
    few = vmaforensics.analyse(str(TAMPERED[0].image_path), views=("slab",), sha256=True)
    assert "slab" in few.kernel.views
    assert "page tables" not in few.kernel.views
    done = subprocess.run(["sha256sum", TAMPERED[0].image_path], capture_output=True, check=True, text=True)
    assert few.provenance.file.sha256 == done.stdout.split()[0]


def test_a_saved_report_is_the_same_document(document: Document, tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_bytes(vmaforensics.render(document, "json"))
    assert vmaforensics.load(path) == document
    assert vmaforensics.load(str(path)) == document
    path.write_bytes(b'{"schema": {"name": "other", "version": "1.0"}}')
    with pytest.raises(VmaForensicsError):
        vmaforensics.load(path)


def test_render_gives_every_format_by_name(document: Document) -> None:
    assert vmaforensics.render(document).startswith(b"VERDICT")
    assert b"<html" in vmaforensics.render(document, "html")[:200]
    with pytest.raises(KeyError):
        vmaforensics.render(document, "docx")


def test_tables_are_structured_arrays(document: Document) -> None:
    regions = document.table("regions")
    assert len(regions) == sum(len(process.regions) for process in document.processes)
    first = next(process for process in document.processes if process.regions)
    assert [hex(start) for start in regions["start"][: len(first.regions)]] == [
        region.start for region in first.regions
    ]
    assert regions["start"].dtype == np.uint64
    assert len(document.table("findings")) == len(document.findings)
    with pytest.raises(KeyError):
        document.table("nonsense")


def test_frames_keep_every_bit_of_an_address(document: Document) -> None:
    pytest.importorskip("pandas")
    for name in ("findings", "evidence", "regions", "processes"):
        frame, table = document.frame(name), document.table(name)
        assert list(frame.columns) == list(table.dtype.names or ())
        assert len(frame) == len(table)
    vmas = document.frame("regions")["vma"]
    assert vmas.dtype == np.uint64
    assert vmas.tolist() == document.table("regions")["vma"].tolist()


def test_without_pandas_a_frame_says_what_to_install(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"vmaforensics\[pandas\]"):
        document.frame("findings")


def test_a_notebook_shows_the_verdict_and_the_findings(document: Document) -> None:
    shown = document._repr_html_()
    assert "1 high" in shown
    assert "VMA-MISSING" in shown
    assert len(shown) < 20_000
    one = document.findings[0]
    assert one.rule in one._repr_html_()


def test_what_a_notebook_shows_is_inert(document: Document) -> None:
    def spoilt(one: Finding) -> Finding:
        evidence = tuple(msgspec.structs.replace(item, what=HOSTILE, view=HOSTILE) for item in one.evidence)
        return msgspec.structs.replace(one, comm=HOSTILE, title=HOSTILE, rule=HOSTILE, start=HOSTILE, evidence=evidence)

    findings = [spoilt(finding) for finding in document.findings] * 10
    kernel = msgspec.structs.replace(document.kernel, release=HOSTILE)
    hostile = msgspec.structs.replace(document, findings=findings, kernel=kernel)
    for shown in (hostile._repr_html_(), findings[0]._repr_html_()):
        assert "<script" not in shown
        assert "<img" not in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "&lt;script&gt;" in shown
    assert f"and {len(findings) - 20} more findings" in hostile._repr_html_()


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, vmaforensics; print('numpy' in sys.modules, 'msgspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "False False\n"


def test_all_that_is_promised_is_there() -> None:
    for name in vmaforensics.__all__:
        assert getattr(vmaforensics, name) is not None
    with pytest.raises(AttributeError):
        vmaforensics.nonsense  # noqa: B018


def test_the_example_of_the_documentation_runs(document: Document, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/examples/api.py", TAMPERED[0].image_path],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=True,
        text=True,
        env=dict(os.environ),
    )
    worst = document.findings[0]
    assert worst.rule in done.stdout
    assert f"pid {worst.pid}" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"case.json", "case.html"}
    assert json.loads((tmp_path / "case.json").read_bytes())["findings"][0]["id"] == worst.id


def test_the_documentation_shows_the_example_as_it_is() -> None:
    example = (ROOT / "docs/examples/api.py").read_text().split('"""\n', 1)[1].strip()
    assert example in (ROOT / "docs/python.md").read_text()


def test_a_clean_image_has_no_serious_finding(maple_sample: Sample) -> None:
    document = vmaforensics.analyse(maple_sample.image_path)
    assert {finding.severity for finding in document.findings} <= {"low", "info"}
