"""The document's tables, and what CSV and Parquet make of them."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from vmaforensics.columns.lookup import sort_order
from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.document import Document, encode
from vmaforensics.report.document.tables import TABLES
from vmaforensics.report.formats.csv_ import cell, render_csv
from vmaforensics.views.view import View
from vmaforensics.words.printable import printable

from .hostile import handmade, tampered_document

if TYPE_CHECKING:
    from support import Sample


def read(raw: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(raw.decode(), newline=""), strict=True))


def test_regions_are_those_of_the_vmas_column_by_column(either_sample: Sample) -> None:
    views = either_sample.analysis.views
    rows = build_document(either_sample.analysis).table("regions")
    index = next(iter(views.indices().values()))
    # In a clean image each index holds each VMA once; the columns come from the VMAs themselves.
    order = np.argsort(rows, order=["mm", "start"], kind="stable")
    wanted = sort_order(index.mm, index.start)
    assert (rows["start"][order] == index.start[wanted]).all()
    assert (rows["end"][order] == index.end[wanted]).all()
    assert (rows["mm"][order] == index.mm[wanted]).all()
    areas = views.vmas.take(index.vma_row[wanted])
    assert (rows["flags"][order] == areas.flags).all()
    assert (rows["vma"] != 0).all()
    assert (rows["size"] == rows["end"] - rows["start"]).all()
    held = {View.LIST: "list", View.RBTREE: "rbtree", View.MAPLE: "maple"}
    for view, name in held.items():
        assert set(rows[name]) == ({"held"} if view in views.indices() else {""})
        assert (rows[f"{name}_at"] != 0).all() == (view in views.indices())


def test_a_region_that_an_index_lacks_is_missing_there() -> None:
    raw = json.loads(encode(tampered_document()))
    region = next(one for one in raw["processes"] if one["regions"])["regions"][0]
    region["seen"]["maple"] = None
    rows = msgspec.convert(raw, Document).table("regions")
    missing = rows[rows["maple"] == "missing"]
    assert [hex(one) for one in missing["start"].tolist()] == [region["start"]]
    assert missing["maple_at"].tolist() == [0]


def test_findings_and_their_evidence_are_rows() -> None:
    document = tampered_document()
    findings, evidence = document.table("findings"), document.table("evidence")
    assert findings["id"].tolist() == [finding.id for finding in document.findings]
    assert [hex(finding) for finding in findings["mm"].tolist()] == [finding.mm for finding in document.findings]
    assert findings["has_range"].tolist() == [finding.start is not None for finding in document.findings]
    assert findings["evidence"].sum() == len(evidence)
    first = evidence[evidence["finding"] == document.findings[0].id]
    assert first["what"].tolist() == [item.what for item in document.findings[0].evidence]
    assert first["number"].tolist() == list(range(1, len(first) + 1))


def test_processes_hold_the_counters_of_the_kernel(either_sample: Sample) -> None:
    views = either_sample.analysis.views
    rows = build_document(either_sample.analysis).table("processes")
    users = rows[rows["mm"] != 0]
    at = views.mm_rows(users["mm"])
    assert (users["map_count"] == views.mms.map_count[at]).all()
    assert (users["total_vm"] == users["total_vm_of_areas"]).all()
    assert (rows["map_count"][rows["mm"] == 0] == -1).all()
    assert rows["started"].dtype == np.dtype("datetime64[s]")


def test_times_of_start_are_times() -> None:
    document = tampered_document()
    processes = [msgspec.structs.replace(process, started="2026-11-22T21:10:05Z") for process in document.processes[:1]]
    shown = msgspec.structs.replace(document, processes=processes)
    assert shown.table("processes")["started"][0] == np.datetime64("2026-11-22T21:10:05")
    assert read(render_csv(shown, table="processes"))[0]["started"] == "2026-11-22T21:10:05Z"


def test_an_unknown_table_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        tampered_document().table("pages")


@pytest.mark.parametrize("name", TABLES)
def test_csv_has_a_row_for_each_and_lines_of_rfc_4180(name: str) -> None:
    document = tampered_document()
    raw = render_csv(document, table=name)
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert raw.endswith(b"\r\n")
    assert raw.count(b"\n") == raw.count(b"\r\n") == len(document.table(name)) + 1
    assert len(read(raw)) == len(document.table(name))


def test_csv_tells_addresses_as_the_document_does() -> None:
    document = tampered_document()
    for row, finding in zip(read(render_csv(document)), document.findings, strict=True):
        assert (row["mm"], row["start"], row["end"]) == (finding.mm, finding.start or "", finding.end or "")
        assert row["title"] == finding.title
    regions = [region for process in document.processes for region in process.regions]
    for row, region in zip(read(render_csv(document, table="regions")), regions, strict=True):
        assert (row["start"], row["flags"], row["vma"]) == (region.start, region.flags, region.vma)
        assert row["inode"] == str(region.inode)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("  =1", "  '=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\t=1", "\\x09=1"),
        ("\r=1", "\\x0d=1"),
        ("a;=1", "a;'=1"),
        ("a=1", "a=1"),
        ("a-b@c", "a-b@c"),
        ("", ""),
        ("[heap]", "[heap]"),
        ("x\ny", "x\\x0ay"),
    ],
)
def test_what_a_spreadsheet_would_run_is_text(text: str, shown: str) -> None:
    assert cell(text) == shown


@pytest.mark.parametrize("name", TABLES)
def test_parquet_holds_the_table_with_declared_types(name: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    from vmaforensics.report.formats.parquet import render_parquet

    document = handmade(tampered_document())
    rows = document.table(name)
    raw = render_parquet(document, table=name)
    assert raw == render_parquet(document, table=name)
    read_back = parquet.read_table(pa.BufferReader(raw))
    for column in ("mm", "start", "end", "address", "vma", "task", "at"):
        if column in read_back.column_names:
            assert read_back.schema.field(column).type == pa.uint64()
    views = sum((rows[view] != "").any() for view in ("list", "rbtree", "maple")) if name == "regions" else 1
    assert read_back.num_rows == len(rows) * views
    for column in set(rows.dtype.names or ()) & set(read_back.column_names):
        values = rows[column]
        expected = [printable(value) for value in values.tolist()] if values.dtype == object else values.tolist()
        if values.dtype.kind != "M":
            assert read_back[column].to_pylist()[::views] == expected, column
    assert set(read_back["kernel_build_id"].to_pylist()) == {document.kernel.build_id}
    assert set(read_back["image_sha256"].to_pylist()) == {None}


def test_parquet_has_a_row_per_region_and_index(list_sample: Sample) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    from vmaforensics.report.formats.parquet import render_parquet

    document = build_document(list_sample.analysis)
    read_back = parquet.read_table(pa.BufferReader(render_parquet(document)))
    regions = [region for process in document.processes for region in process.regions]
    assert read_back["view"].to_pylist() == ["list", "rbtree"] * len(regions)
    slots = [
        int(slot, 16) for region in regions for slot in (region.seen.list, region.seen.rbtree) if isinstance(slot, str)
    ]
    assert read_back["at"].to_pylist() == slots
    assert set(read_back["state"].to_pylist()) == {"held"}
