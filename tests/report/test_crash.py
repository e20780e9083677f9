"""A kernel that crashed or complained, in every format of the report, and the page of its own."""

from __future__ import annotations

from html.parser import HTMLParser

import msgspec
import pytest
from crash.test_document import a_case, document_of

from vmaforensics.report.document.crash_short import short_form
from vmaforensics.report.document.document import Document, encode
from vmaforensics.report.document.saved import parse
from vmaforensics.report.formats.html.crash_page import render_crash_html
from vmaforensics.report.formats.render import render

from .example import example
from .hostile import NAMES

DOCUMENT = example()

OOPS = [
    b"BUG: kernel NULL pointer dereference, address: 0000000000000040",
    b"CPU: 0 PID: 812 Comm: cat Not tainted 6.1.0",
    b"RIP: 0010:mas_walk+0x16/0x1d0",
    b"RAX: 0000000000000000 RBX: ffff8b4bc1a5d000 RCX: 0000000000000000",
    b"Call Trace:",
    b" mt_find+0xd9/0x1b0",
    b"---[ end trace 0000000000000000 ]---",
    b"Kernel panic - not syncing: Fatal exception",
]


def crashed() -> Document:
    """A report of a kernel that crashed."""
    return msgspec.structs.replace(DOCUMENT, crash=short_form(document_of(a_case(OOPS, panic_cpu=0))))


class Tags(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_verdict_says_first_that_the_kernel_crashed() -> None:
    assert crashed().verdict.startswith("This kernel crashed: BUG: kernel NULL pointer dereference")
    assert crashed().verdict.endswith(DOCUMENT.verdict)


@pytest.mark.parametrize("name", ["text", "markdown", "html", "jsonl", "json"])
def test_every_format_has_the_end_and_its_cause(name: str) -> None:
    shown = render(crashed(), name).decode()
    assert "Fatal exception" in shown
    assert "mas_walk" in shown
    assert "null-pointer" in shown


def test_a_report_without_a_crash_is_what_it_was() -> None:
    assert b'"crash":' not in encode(DOCUMENT)
    assert "vmaforensics crash" not in render(DOCUMENT, "text").decode()
    assert 'id="crash"' not in render(DOCUMENT, "html").decode()


def test_a_crash_is_saved_and_rendered_alike() -> None:
    again = parse(encode(crashed()))
    assert again == crashed()
    assert render(again, "html") == render(crashed(), "html")


def test_the_page_of_a_crash_is_one_file_that_runs_nothing() -> None:
    page = render_crash_html(document_of(a_case(OOPS, panic_cpu=0)))
    tags = Tags(page)
    assert "This kernel crashed." in tags.text
    assert "mas_walk+0x16/0x1d0" in tags.text
    assert not {"script", "img", "link", "iframe", "form"} & set(tags.tags)
    assert b"script-src" not in page
    assert b"default-src &#39;none&#39;" in page
    assert page == render_crash_html(document_of(a_case(OOPS, panic_cpu=0)))


@pytest.mark.parametrize("raw", NAMES)
def test_hostile_strings_of_a_log_make_no_element(raw: bytes) -> None:
    lines = [b"BUG: Bad page map in process cat  pte:1 pmd:2" + raw, b"file:" + raw + b" fault:x mmap:y", *OOPS]
    document = document_of(a_case([*lines, raw], panic_cpu=0, comm=raw[:15]))
    plain = document_of(
        a_case([b"BUG: Bad page map in process cat  pte:1 pmd:2", b"file:x fault:x mmap:y", *OOPS, b"x"])
    )
    assert set(Tags(render_crash_html(document)).tags) <= set(Tags(render_crash_html(plain)).tags) | {"b", "details"}
    report = msgspec.structs.replace(DOCUMENT, crash=short_form(document))
    assert set(Tags(render(report, "html")).tags) <= set(Tags(render(crashed(), "html")).tags) | {"b", "details"}
    assert all(character == "\n" or character.isprintable() for character in render(report, "text").decode())
