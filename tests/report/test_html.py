"""The HTML report: complete, refers to nothing, and inert whatever the image held."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from vmaforensics.compare.nearby.node import Node
from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.document import Document, encode
from vmaforensics.report.document.findings import Evidence
from vmaforensics.report.document.parts import NotAssessed
from vmaforensics.report.formats import html
from vmaforensics.report.formats.html import render_html
from vmaforensics.report.formats.html.amounts import extent, number
from vmaforensics.report.formats.html.cards import cards
from vmaforensics.report.formats.html.ladder import ladder
from vmaforensics.report.formats.html.nodes import picture
from vmaforensics.report.formats.html.overview import overview
from vmaforensics.report.formats.html.processes import processes
from vmaforensics.report.formats.html.sections import sections
from vmaforensics.words.amounts import amount

from .example import HOSTILE, clean, example, finding, hostile, memory_map, process
from .parsed_page import Page

if TYPE_CHECKING:
    from support import Sample

TEMPLATES = Path(html.__file__).parent / "templates"


@pytest.fixture(scope="module")
def page() -> Page:
    """The example, rendered and parsed."""
    return Page(render_html(example()))


# What it shows


def test_everything_of_a_finding_is_on_the_page(page: Page) -> None:
    for entry in example().findings:
        words = [
            entry.rule,
            entry.rule_title,
            entry.why,
            entry.comm,
            entry.lock,
            *entry.benign_causes,
            *entry.flags,
            entry.id,
        ]
        words += [item.what for item in entry.evidence] + [f"{item.id} {item.name}" for item in entry.attack]
        words += [line for hand in entry.by_hand for line in hand.lines]
        for word in words:
            assert word in page.text, f"{word!r} of {entry.severity} is missing"
        assert f"{entry.start}–{(entry.end or '')[2:]}" in page.text
    assert "7f 45 4c 46 02 01 01 00" in page.text
    assert "·ELF····" in page.text
    assert "the vm_area_struct: not in the dump" in page.text


def test_severities_are_counted_and_the_gravest_comes_first(page: Page) -> None:
    order = [attrs["data-severity"] for tag, attrs in page.tags if tag == "article"]
    assert order == ["critical", "high", "medium", "low", "info"]
    for severity in order:
        assert f"1 {severity}" in page.text


def test_what_was_not_assessed_is_on_the_page_and_in_the_verdict(page: Page) -> None:
    assert "2 not assessed" in page.text
    assert "2 things could not be assessed" in page.text
    assert "page tables 0x1234: not in the dump 101 7" in page.text
    assert "93.3 % of RAM is not in the file (dump level 31 leaves out the pages of programs)" in page.text


def test_provenance_is_on_the_page(page: Page) -> None:
    for word in (
        "/evidence/web01.kdump",
        "5,945,877 bytes",
        "ab" * 32,
        "zstd",
        "kallsyms at physical 0xbd2ddd8",
        "numpy 2.0",
        "Python 3.11.7",
        "8,761 present",
        "eb4fbcd0",
        "web01",
    ):
        assert word in page.text


def test_each_cell_of_a_memory_map_is_told_in_words(page: Page) -> None:
    row = re.search(r" 430000– 434000 (.*?) 434000– 438000 ", page.text)
    assert row
    said = "r-xp /usr/lib/x86_64-linux-gnu/libc.so.6 VMA-MISSING ffff888100000003 no 1000 4 pages unread –"
    assert row[1] == said


def test_what_is_wrong_with_a_node_is_told_in_words_too(page: Page) -> None:
    assert "0xb0c maple_leaf_64: two empty ranges side by side" in page.text


def test_a_counter_that_disagrees_is_told_with_both_numbers(page: Page) -> None:
    assert "4,321 VMAs: 4,320" in page.text
    assert "9,000 VMAs" not in page.text


@pytest.mark.parametrize(
    ("document", "tone", "headline"),
    [
        (example(), "critical", "This memory contradicts itself."),
        (msgspec.structs.replace(clean(), findings=[finding(1, "high")]), "high", "This memory contradicts itself."),
        (msgspec.structs.replace(clean(), findings=[finding(1, "medium")]), "medium", "Some records do not add up."),
        (msgspec.structs.replace(clean(), findings=[finding(1, "low")]), "clear", "The records agree."),
        (clean(), "clear", "The records agree."),
        (
            msgspec.structs.replace(clean(), not_assessed=example().not_assessed),
            "unknown",
            "What could be read agrees.",
        ),
        (msgspec.structs.replace(clean(), processes=[]), "unknown", "No process could be examined."),
    ],
)
def test_the_verdict_says_no_more_than_was_read(document: Document, tone: str, headline: str) -> None:
    told = overview(document)
    assert (told.tone, told.headline) == (tone, headline)
    assert headline in Page(render_html(document)).text


def test_the_tampered_sample_is_told_by_name_and_place(tampered: Sample) -> None:
    document = build_document(tampered.analysis)
    page = Page(render_html(document))
    serious = [entry for entry in document.findings if entry.severity in ("critical", "high")]
    assert serious
    for entry in serious:
        assert f"pid {entry.pid} {entry.comm}" in page.text
        assert entry.title[1:] in page.text
        assert f"#f-{entry.id}" in page.values("href")


def test_the_same_document_gives_the_same_bytes() -> None:
    assert render_html(example()) == render_html(example())


def test_a_saved_document_renders_alike() -> None:
    again = msgspec.json.decode(encode(example()), type=Document)
    assert render_html(again) == render_html(example())


# That it is one file


def test_nothing_outside_the_file_is_referred_to(page: Page) -> None:
    names = {name for _, attrs in page.tags for name in attrs}
    assert not names & {"src", "srcset", "style", "action", "formaction", "data", "poster", "xlink:href", "ping"}
    assert not [name for name in names if name.startswith("on")]
    assert all(value.startswith("#") for value in page.values("href"))
    assert {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base", "image", "use"} == set()
    assert re.findall(r"url\((?!#)|@import|https?:", page.raw["style"]) == []


def test_the_policy_admits_this_style_and_script_only(page: Page) -> None:
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    hashes = {
        tag: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for tag, text in page.raw.items()
    }
    assert rules == {
        "default-src": "'none'",
        "style-src": hashes["style"],
        "script-src": hashes["script"],
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert [tag for tag, _ in page.tags].count("script") == 1


def test_every_link_leads_somewhere_and_names_are_unique(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in page.values("href")} <= set(ids)


def test_findings_with_the_same_id_have_links_of_their_own() -> None:
    twice = msgspec.structs.replace(example(), findings=[finding(1), finding(1)])
    ids = Page(render_html(twice)).values("id")
    assert len(ids) == len(set(ids))


def test_headings_tables_and_pictures_can_be_found_by_those_who_do_not_see_them(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert ("html", {"lang": "en"}) in page.tags
    assert tags.count("h1") == tags.count("main") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(attrs.get("aria-label" if attrs.get("role") == "img" else "aria-hidden") for attrs in pictures)
    assert [attrs for attrs in pictures if attrs.get("role") == "img"]


# Hostile strings


@pytest.mark.parametrize("addresses", [False, True])
def test_hostile_strings_make_no_tag_and_no_attribute(addresses: bool) -> None:
    plain, page = Page(render_html(example())), Page(render_html(hostile(example(), addresses=addresses)))
    known = {(tag, name) for tag, attrs in plain.tags for name in (*attrs, "")}
    known |= {("td", "data-pid"), ("details", "open")}
    assert {(tag, name) for tag, attrs in page.tags for name in (*attrs, "")} <= known
    assert page.raw == plain.raw
    assert all(re.fullmatch(r"#[A-Za-z0-9_.~-]+", value) for value in page.values("href"))
    assert all(re.fullmatch(r"[A-Za-z0-9_.~-]+", value) for value in page.values("id"))
    assert {value[1:] for value in page.values("href")} <= set(page.values("id"))


def test_hostile_strings_do_not_change_how_the_page_is_built() -> None:
    def skeleton(document: Document) -> list[tuple[str, tuple[str, ...]]]:
        tags = Page(render_html(document)).tags
        end = next(at for at, (_, attrs) in enumerate(tags) if attrs.get("id") == "legend")
        return [(tag, tuple(attrs)) for tag, attrs in tags[:end] if tag != "text"]  # long words take more lines

    # Counters are looked up by name, so one with another name has no column.
    some = [msgspec.structs.replace(process, counters=()) for process in example().processes]
    plain = msgspec.structs.replace(example(), processes=some)
    assert skeleton(hostile(plain, addresses=False)) == skeleton(plain)


def test_hostile_strings_are_shown_as_what_they_are() -> None:
    text = Page(render_html(hostile(example(), addresses=False))).text
    assert "</script><script>alert(1)</script>" in text
    assert "&lt;b&gt;&#60;b&#62;" in text
    assert "\\u202egnp.exe" in text
    assert "\\x1b]0;title\\x07\\x1b[2J" in text
    assert "\\ud800lone\\udfff" in text
    assert "nul\\x00byte" in text
    assert "{{ 7 * 7 }}{% raw %}" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_character_that_acts_on_a_reader_is_in_the_file(text: str) -> None:
    one = finding(1, comm=text, title=text, rule=text, id=text, start=text)
    page = render_html(msgspec.structs.replace(example(), findings=[one])).decode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", page)


def test_templates_trust_nothing_and_the_script_only_hides_and_shows() -> None:
    for path in TEMPLATES.iterdir():
        source = path.read_text()
        if path.suffix in (".html", ".svg"):
            assert not re.search(r"\|\s*(safe|tojson)\b|autoescape|Markup", source), path.name
            assert not re.search(r"=\{[{%]", source), f"{path.name}: an attribute without quotation marks"
    script = (TEMPLATES / "report.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function|createElement|setAttribute|fetch|XMLHttp"
        r"|import|\.src|\.href\s*=",
        script,
    )


# Documents that hold what no image gives


def test_parents_that_form_a_ring_are_each_shown_once() -> None:
    ring = [process(101, 102), process(102, 103), process(103, 101), process(104, 104)]
    table = processes(msgspec.structs.replace(example(), processes=ring), [])
    assert sorted(row.process.pid for row in table.rows) == [101, 102, 103, 104]


def test_children_stand_under_their_parents() -> None:
    some = [process(104, 102), process(101, None), process(103, 101), process(102, 101)]
    table = processes(msgspec.structs.replace(example(), processes=some), [])
    assert [(row.process.pid, row.depth) for row in table.rows] == [(101, 0), (103, 1), (102, 1), (104, 2)]


def test_nodes_that_form_a_ring_are_each_drawn_once() -> None:
    ring = [
        Node(address=name, parent=above, kind="rb_node", start="0x0", end="0x1000", entries=1, wrong="")
        for name, above in (("0x1", "0x3"), ("0x2", "0x1"), ("0x3", "0x2"), ("0x3", "0x3"))
    ]
    drawn = picture("rb tree", ring)
    assert drawn
    assert len(drawn.boxes) == 4


def test_a_chain_of_ten_thousand_links_is_cut_around_what_is_wrong() -> None:
    chain = [
        Node(
            address=hex(at + 1),
            parent=hex(at) if at else None,
            kind="vm_area_struct",
            start="0x0",
            end="0x1",
            entries=1,
            wrong="leads back" if at == 9000 else "",
        )
        for at in range(10_000)
    ]
    for index in ("vm_next list", "rb tree"):
        drawn = picture(index, chain)
        assert drawn
        assert len(drawn.boxes) == 60
        assert drawn.left_out == 9940
        assert [node.address for node in drawn.wrong] in ([], ["0x2329"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x1000", 4096),
        ("0x10000000000000000", 1 << 64),
        ("0x10000000000000001", None),
        ("-0x1", None),
        ("", None),
        ("0x" + "f" * 5000, None),
        ("pid", None),
        (None, None),
    ],
)
def test_addresses_are_read_or_refused(text: str | None, value: int | None) -> None:
    assert number(text) == value


def test_sizes_are_told_in_the_unit_that_fits() -> None:
    assert [amount(size) for size in (1, 4096, 790528, 1 << 30, 46660000000000)] == [
        "1 B",
        "4 KiB",
        "772 KiB",
        "1 GiB",
        "42.4 TiB",
    ]
    assert extent("0x2000", "0x1000") == extent("0x1000", None) == ""


# Pictures


def test_heights_grow_with_the_logarithm_of_size_and_gaps_are_labelled() -> None:
    some = memory_map(3, regions=4)
    rows = (
        some.rows[0],
        msgspec.structs.replace(some.rows[1], start="0x434000", end="0x438000"),
        msgspec.structs.replace(some.rows[2], start="0x440000", end="0x40440000"),
        msgspec.structs.replace(some.rows[3], start="0x40430000", end="0x40434000"),
    )
    section = sections(msgspec.structs.replace(example(), maps=[msgspec.structs.replace(some, rows=rows)]), [])[0][0]
    drawn = ladder(section.lines, some.views, 7)
    heights = [strip.height for piece in drawn for strip in piece.strips]
    assert heights[0] == heights[1] == heights[3] < heights[2] < 3 * heights[0]  # 16 KiB and 1 GiB
    said = [text.text for piece in drawn for text in piece.texts if text.kind == "gap"]
    assert said == ["gap of 32 KiB", "overlaps the one above by 64 KiB", "7 regions not drawn"]
    words = [text for piece in drawn for text in piece.texts if text.kind.startswith("word")]
    assert [(text.text, text.kind) for text in words[:4]] == [
        ("no", "word missing"),
        ("4 pages", "word held"),
        ("unread", "word unread"),
        ("–", "word none"),
    ]


def test_a_joined_finding_marks_the_vmas_it_names_and_not_those_between() -> None:
    some = memory_map(3, regions=6)
    names = [some.rows[at].vma for at in (1, 4)]
    one = finding(
        3,
        start=some.rows[1].start,
        end=some.rows[5].end,
        vma=names[0],
        evidence=tuple(Evidence(what="", view="VMA", address=name, found="", expected="") for name in names),
    )
    card = cards(msgspec.structs.replace(example(), findings=[one], maps=[some]), 9)[0]
    assert card.rows == {1, 4}


# Size and speed


def _large() -> Document:
    """Every one of 410 processes with 312 regions hides one of them: the scale image at its worst."""
    return msgspec.structs.replace(
        example(),
        processes=[process(100 + number, 99 + number) for number in range(410)],
        findings=[finding(number) for number in range(410)],
        maps=[memory_map(number, regions=312) for number in range(410)],
        not_assessed=[NotAssessed(what="slab", why="0x1234: not in the dump", pid=at) for at in range(2000)],
    )


def test_a_large_document_stays_small_and_says_what_it_leaves_out() -> None:
    document = _large()
    render_html(example())  # templates are compiled once
    before = time.process_time()
    page = render_html(document)
    assert time.process_time() - before < 3
    assert len(page) < 3_000_000
    text = Page(page).text
    assert "Findings 410" in text
    for at in range(410):
        assert finding(at).title in text
    assert "1,500 more lines left out" in text
    assert "192 regions left out, far from any finding. All of them: vmaforensics views IMAGE --pid 100" in text
    assert "No room for 350 further address spaces like these" in text


def test_many_findings_in_one_address_space_cost_no_more_than_their_number() -> None:
    some = memory_map(3, regions=20_000)
    many = [finding(3, id=f"{at:x}", start="0x0", end="0xffffffffffffffff") for at in range(5000)]
    document = msgspec.structs.replace(example(), findings=many, maps=[some])
    before = time.process_time()
    page = render_html(document)
    assert time.process_time() - before < 10
    assert len(page) < 3_000_000
    tags = Page(page).tags
    shown = [attrs["id"] for tag, attrs in tags if tag in ("article", "tr") and "data-severity" in attrs]
    assert f"{5000 - len(shown):,} more findings left out" in Page(page).text
