"""Strings of the image do nothing in any format but stand there, whatever they are."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from vmaforensics.report.formats.render import FORMATS, render

from .hostile import handmade, inert, planted_document, tampered_document

if TYPE_CHECKING:
    from vmaforensics.report.document.document import Document

TIMES = {"booted": "2026-11-22T21:00:00Z", "clock": "2026-11-22T21:05:00Z", "crashed": None}
TEXTUAL = [name for name, form in FORMATS.items() if not form.binary]


@cache
def documents() -> dict[str, Document]:
    import msgspec

    made = {"planted": planted_document(), "handmade": handmade(tampered_document())}
    return {
        name: msgspec.structs.replace(one, kernel=msgspec.structs.replace(one.kernel, **TIMES))
        for name, one in made.items()
    }


@pytest.fixture(params=["planted", "handmade"])
def document(request: pytest.FixtureRequest) -> Document:
    found: Document = documents()[request.param]
    return found


def test_what_was_planted_came_through_the_pipeline() -> None:
    document = planted_document()
    names = [process.comm for process in document.processes]
    names += [region.name for process in document.processes for region in process.regions]
    parts = ("\\x1b]0;owned", "\\u202e", "<script>", "=HYPERLINK", "c`d``e", "](http:", "\\x9b31m", "\\xed\\xa0\\x80")
    for part in parts:
        assert any(part in name for name in names), part
    assert "/memfd:" not in {name for name in names if name.startswith("/memfd:plain")}
    assert "<b>=1|`" in document.kernel.banner
    suspect = next(finding for finding in document.findings if finding.severity == "high")
    assert suspect.comm.startswith("\\x1b]0;owned")


@pytest.mark.parametrize("name", TEXTUAL)
def test_no_character_acts_on_a_terminal(document: Document, name: str) -> None:
    for options in ({}, {"detail": 2, "all_regions": True}):
        text = render(document, name, options).decode()
        assert inert(text.replace("\r\n", "\n") if name == "csv" else text)


def test_colour_is_the_only_escape_sequence(document: Document) -> None:
    text = render(document, "text", {"detail": 2, "color": True, "width": 80}).decode()
    assert inert(re.sub(r"\x1b\[[0-9;]*m", "", text))
    assert "\x1b]" not in text


@pytest.mark.parametrize("table", FORMATS["csv"].tables)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_no_cell_of_a_spreadsheet_is_a_formula(document: Document, table: str, delimiter: str) -> None:
    raw = render(document, "csv", {"table": table}).decode()
    rows = list(csv.reader(io.StringIO(raw, newline=""), delimiter=delimiter))
    assert len(rows) == raw.count("\r\n") == raw.count("\n")
    if delimiter == ",":
        assert {len(row) for row in rows} == {len(rows[0])}
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))]


@pytest.mark.parametrize("name", ["json", "jsonl", "timesketch", "navigator", "stix", "sarif"])
def test_json_is_json(document: Document, name: str) -> None:
    raw = render(document, name)
    assert raw.endswith(b"\n")
    lines = raw.split(b"\n")[:-1]
    assert b"" not in lines
    for line in lines:
        json.loads(line)


@pytest.mark.parametrize("reader", ["commonmark", "gfm"])
def test_markdown_is_plain_text_and_our_own_structure(document: Document, reader: str) -> None:
    text = render(document, "markdown").decode()
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"] if reader == "gfm" else [])
    tokens = [token for one in markdown.parse(text) for token in (one, *(one.children or ()))]
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "s_open", "code_block", "blockquote_open"}
    headings = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    road = ["The road that shows memory maps"] if document.road is not None else []
    matched = ["Rules"] if document.scan is not None else []
    sections = ["vmaforensics report", "Findings", *road, *matched, "Not assessed", "Provenance"]
    assert [heading for heading in headings if heading in sections] == sections
    serious = [finding for finding in document.findings if finding.severity in ("critical", "high", "medium")]
    assert len(headings) == len(sections) + min(len(serious), 10)
    # What GitHub makes links, pictures or formulas of stands nowhere but in code.
    prose = " ".join(token.content for token in tokens if token.type == "text")
    if reader == "commonmark":  # without tables their bars are text
        prose = prose.replace("|", "")
    assert not re.search(r"[@#<>$`\[\]{}*_~|]|https?:|www\.|:[a-z]+:", prose), prose
    if reader == "gfm":
        rows: list[list[object]] = [[]]
        for token in tokens:
            if token.type == "tr_open":
                rows.append([])
            elif token.type in ("td_open", "th_open"):
                rows[-1].append(token)
        assert {len(row) for row in rows[1:]} <= {2, 3, 4, 5, 6}


def test_a_name_that_closes_a_fence_stays_inside(document: Document) -> None:
    from vmaforensics.report.formats.markdown import fenced

    tokens = MarkdownIt("commonmark").parse("\n".join(fenced(["``` x", "````", "~~~", "`" * 40, "end"])) + "\n")
    assert [token.type for token in tokens] == ["fence"]
    assert tokens[0].content.endswith("end\n")


def test_a_page_holds_no_markup_of_the_image(document: Document) -> None:
    page = render(document, "html").decode()
    assert "<img" not in page
    assert "<script>alert" not in page
    assert 'href="http' not in page


def test_very_long_names_are_cut_where_a_reader_would_choke(document: Document) -> None:
    for line in render(document, "timesketch").splitlines():
        for value in json.loads(line).values():
            assert not isinstance(value, str) or len(value.encode()) < 32766
    assert max(map(len, render(document, "markdown").decode().splitlines())) < 4096
